"""What `milepost up` prints."""

import pytest

from milepost.cli.exits import OutputClosed
from milepost.cli.local import console
from milepost.cli.local.console import Console


@pytest.mark.parametrize(("coloured", "shown"), [(True, "\x1b[33ma    |\x1b[0m text\n"), (False, "a    | text\n")])
def test_component_names_are_aligned_and_coloured_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], coloured: bool, shown: str
) -> None:
    monkeypatch.setattr(console, "is_colour_terminal", lambda _: coloured)
    Console(["long", "a"], on_failure=print).log("a", "text")
    assert capsys.readouterr().out == shown


def test_console_prints_no_more_once_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, failed = [], []

    def nobody_reads(*_: object, **__: object) -> None:
        tried.append(1)
        raise OutputClosed("nobody reads standard output any more")

    monkeypatch.setattr("builtins.print", nobody_reads)
    made = Console(["a"], on_failure=lambda: failed.append(1))
    made.line("one")
    made.line("two")
    assert (len(tried), len(failed), type(made.fault)) == (1, 1, OutputClosed)
