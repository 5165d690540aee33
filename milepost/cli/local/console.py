"""The lines that `milepost up` prints: its own, and each component's behind the component's name."""

import os
from collections.abc import Callable, Sequence

from milepost.errors import MilepostError

COLOURS = ("36", "33", "35", "32", "34", "96", "93", "95", "92", "94")
"""SGR foreground colours, taken in turn by the components."""


class Console:
    """Prints lines. If one cannot be printed, `fault` says why, `on_failure` is called, and no more are printed."""

    def __init__(self, names: Sequence[str], *, on_failure: Callable[[], object]) -> None:
        self.fault: MilepostError | None = None
        self._names = list(names)
        self._width = max(map(len, names))
        self._on_failure = on_failure

    def line(self, text: str) -> None:
        """Print a line as it is."""
        if self.fault:
            return
        try:
            print(text, flush=True)
        except MilepostError as fault:
            self.fault = fault
            self._on_failure()

    def log(self, name: str, text: str) -> None:
        """Print a line of the component `name`."""
        prefix = f"{name:<{self._width}} |"
        if is_colour_terminal(1):
            prefix = in_colour(prefix, self._names.index(name))
        self.line(f"{prefix} {text}")


def in_colour(text: str, number: int) -> str:
    """`text` in the colour of this number; they repeat after ten."""
    return f"\x1b[{COLOURS[number % len(COLOURS)]}m{text}\x1b[0m"


def is_colour_terminal(descriptor: int) -> bool:
    """Whether text that is written there may have colours."""
    return os.isatty(descriptor) and "NO_COLOR" not in os.environ
