"""StageContract against values that do not fit its stage."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from milepost import RootPayload
from milepost.events.payload import fields_of
from milepost.testing.contract import StageContract
from milepost.testing.servers import Function


class Ordered(StageContract):
    stage = "distance"
    consumes = "raw_input"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Function(tmp_path_factory.mktemp("function"), "distance") as function:
        yield function.url


@pytest.mark.parametrize("order", ["email", "true", "customer"])
def test_order_must_be_by_a_field_of_the_payload(
    url: str, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "helm").mkdir()
    table = f"stages:\n  distance: {{consumes: raw_input, emits: calculated_distance, order: {order}}}\n"
    (tmp_path / "helm" / "values.yaml").write_text(table)
    monkeypatch.setattr(Function, "project", tmp_path)
    if order != "customer":
        Ordered().test_order_is_by_a_field_of_the_payload(url)
        return
    with pytest.raises(AssertionError) as refused:
        Ordered().test_order_is_by_a_field_of_the_payload(url)
    told = "order: customer: the data on raw_input has no such field, only email, lat, long"
    assert str(refused.value).startswith(told)


def test_fields_of_a_payload_are_found_in_any_schema() -> None:
    class Card(BaseModel):
        number: str

    class Bill(BaseModel):
        customer: str = Field(alias="client")

    class Either(RootPayload[Card | Bill], channel="either"):
        pass

    class One(RootPayload[Annotated[Bill, Field(title="bill")]], channel="one"):
        pass

    class Text(RootPayload[str], channel="text"):
        pass

    found = {payload.channel: fields_of(payload.model_json_schema()) for payload in (Either, One, Text)}
    assert found == {"either": ["number", "client"], "one": ["client"], "text": []}
