"""The lines that `milepost up` prints: its own, and each component's behind the component's name."""

import os
import queue
import threading
from collections.abc import Callable, Sequence

from milepost.cli.streams import Stdout
from milepost.errors import MilepostError

COLOURS = ("36", "33", "35", "32", "34", "96", "93", "95", "92", "94")
"""SGR foreground colours, taken in turn by the components."""

MOST_WAITING = 10_000
"""Lines kept while nobody reads. Later ones are dropped and counted."""


class Console:
    """Prints lines in a thread of its own, so that a reader who stops reading stops no component."""

    def __init__(
        self, names: Sequence[str], *, on_failure: Callable[[MilepostError], object], descriptor: int = 1
    ) -> None:
        """`on_failure` is called in that thread with OutputClosed or CommandFailed once a line cannot be written."""
        self._names = list(names)
        self._width = max(map(len, names))
        self._coloured = is_colour_terminal(descriptor)
        self._output = Stdout(descriptor, "w", closefd=False)
        self._on_failure = on_failure
        self._dropped = 0
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_WAITING)
        self._printer = threading.Thread(target=self._print, name="console", daemon=True)
        self._printer.start()

    def line(self, text: str) -> None:
        """Print a line as it is."""
        try:
            self._lines.put_nowait(f"{text}\n")
        except queue.Full:
            self._dropped += 1

    def log(self, name: str, text: str) -> None:
        """Print a line of the component `name`."""
        prefix = f"{name:<{self._width}} |"
        if self._coloured:
            prefix = in_colour(prefix, self._names.index(name))
        self.line(f"{prefix} {text}")

    def close(self, within: float = 2.0) -> None:
        """Print the lines that wait, for `within` seconds at most."""
        try:
            self._lines.put(None, timeout=within)
        except queue.Full:
            return
        self._printer.join(within)

    def _print(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                line = f"({dropped} lines dropped: nobody read them)\n{line}"
            text = line.encode(errors="replace")
            try:
                while text:
                    text = text[self._output.write(text) :]
            except MilepostError as fault:
                self._on_failure(fault)
                return


def in_colour(text: str, number: int) -> str:
    """`text` in the colour of this number; they repeat after ten."""
    return f"\x1b[{COLOURS[number % len(COLOURS)]}m{text}\x1b[0m"


def is_colour_terminal(descriptor: int) -> bool:
    """Whether text that is written there may have colours."""
    return os.isatty(descriptor) and "NO_COLOR" not in os.environ
