"""Every command of the README and the tutorial prints the output shown there, in order, on one `milepost up` each."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from milepost import stage_values
from tests.documents.blocks import Step, steps
from tests.documents.not_run import NOT_RUN, why_not_run
from tests.documents.sandbox import Sandbox
from tests.servers import ROOT

DOCUMENTS = ("README.md", "docs/stages.md", "docs/tutorial.md", "docs/operations.md")
STEPS = [step for name in DOCUMENTS for step in steps(name, (ROOT / name).read_text())]
SHOWN = next(step for step in STEPS if step.command == ".venv/bin/milepost stages" and step.output)
MORE = {entry.name for entry in stage_values.read(ROOT)} - {line.split()[0] for line in SHOWN.output.splitlines()}
"""Stages that somebody has put beside those that the documents show: what is printed is no longer what they say."""


class Walkthrough:
    """The documents' steps, each done once and after those above it."""

    def __init__(self, tmp_path_factory: pytest.TempPathFactory, stack: ExitStack) -> None:
        self._factory = tmp_path_factory
        self._stack = stack
        self._sandboxes: dict[str, Sandbox] = {}
        self._left = {name: [step for step in STEPS if step.document == name] for name in DOCUMENTS}
        self._failed: set[str] = set()

    def come_to(self, step: Step) -> Sandbox:
        """Do the steps up to this one."""
        name, left = step.document, self._left[step.document]
        if name in self._failed:
            pytest.skip("a command above it failed")
        if name not in self._sandboxes:
            self._sandboxes[name] = self._stack.enter_context(Sandbox(self._factory.mktemp("document")))
        self._failed.add(name)
        while step in left:
            current = left.pop(0)
            if why_not_run(current.command) is None:
                self._sandboxes[name].do(current)
        self._failed.remove(name)
        return self._sandboxes[name]


@pytest.fixture(scope="module")
def walkthrough(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walkthrough]:
    with ExitStack() as stack:
        yield Walkthrough(tmp_path_factory, stack)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.title)
def test_command_prints_the_documented_output(walkthrough: Walkthrough, step: Step) -> None:
    why = why_not_run(step.command)
    if why:
        pytest.skip(f"{step.document}: {why}")
    if MORE:
        pytest.skip(f"{step.document}: shows the pipeline without {', '.join(sorted(MORE))}")
    walkthrough.come_to(step).check_what_runs()


def test_every_reason_not_to_run_a_command_is_needed() -> None:
    given = {why_not_run(step.command) for step in STEPS}
    assert {why for _, why in NOT_RUN} <= given
