"""The mutator of Python sources."""

from tests.mutants.python import mutants

SOURCE = """\
def take(left: int = 3) -> bool:
    if left > 0 and not closed:
        read(left)
        self.left = left + 1
    return left in known
"""


def test_each_condition_constant_and_statement_is_changed_once() -> None:
    changed = []
    for mutant in mutants(SOURCE):
        pairs = zip(mutant.source.splitlines(), SOURCE.splitlines(), strict=True)
        changed.append(next(line.strip() for line, before in pairs if line != before))
    assert sorted(changed) == sorted(
        [
            "def take(left: int = 4) -> bool:",
            "if left > 0 or not closed:",
            "if left >= 0 and not closed:",
            "if left > 1 and not closed:",
            "if left > 0 and closed:",
            "if not (left > 0 and not closed):",
            "pass",
            "pass",
            "self.left = left - 1",
            "self.left = left + 2",
            "return left not in known",
        ]
    )
