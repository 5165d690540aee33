"""docs/reference.md is generated from the code and up to date."""

from tests.documents.function_settings import FUNCTION_SETTINGS, found
from tests.documents.reference import PATH, reference


def test_the_reference_is_up_to_date() -> None:
    assert PATH.read_text() == reference(), "run `make documents`"


def test_every_setting_of_the_functions_is_in_it() -> None:
    assert [variable.name for variable in found()] == [*FUNCTION_SETTINGS]
