"""What `milepost up` shows: its own lines, and each component's log lines behind the component's name."""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Sequence

from milepost.cli.streams import write_out
from milepost.errors import MilepostError

COLOURS = ("36", "33", "35", "32", "34", "96", "93", "95", "92", "94")
"""SGR foreground colours, taken in turn by the components."""

ERASE = "\r\x1b[K"
"""Takes away the line that the cursor is on."""

MOST_WAITING = 10_000
"""Lines kept for a reader that does not read; more are left out, and counted."""


class Console:
    """Lines on a file descriptor, written by a thread of its own: a reader that stops reading stops no component."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        descriptor: int = 1,
        coloured: bool | None = None,
        on_closed: Callable[[MilepostError], None] = lambda _: None,
    ) -> None:
        """`on_closed` is called in the writing thread, with OutputClosed or Failed, when nothing can be written any
        more.
        """
        self._descriptor = descriptor
        self._coloured = is_colour_terminal(descriptor) if coloured is None else coloured
        self._terminal = os.isatty(descriptor)
        self._width = max(map(len, names), default=0)
        self._names = list(names)
        self._on_closed = on_closed
        self._left_out = 0
        self._status = ""
        self._lines: queue.Queue[tuple[str, str] | None] = queue.Queue(MOST_WAITING)
        self._writer = threading.Thread(target=self._write, name="console", daemon=True)
        self._writer.start()

    def line(self, text: str) -> None:
        """Show a line as it is."""
        self._offer(f"{text}\n")

    def _offer(self, text: str) -> None:
        try:
            self._lines.put_nowait((text, self._status))
        except queue.Full:
            self._left_out += 1

    def log(self, name: str, text: str) -> None:
        """Show a line of the component `name`."""
        prefix = f"{name:<{self._width}} |"
        if self._coloured and name in self._names:
            prefix = in_colour(prefix, self._names.index(name))
        self.line(f"{prefix} {text}")

    def status(self, text: str) -> None:
        """On a terminal, show this below the last line until there is another status; elsewhere it is not shown."""
        if self._terminal:
            self._status = text
            self._offer("")

    def close(self, within: float = 2.0) -> None:
        """Write what waits, for as long as `within` seconds."""
        try:
            self._lines.put(None, timeout=within)
        except queue.Full:
            return
        self._writer.join(within)

    def _write(self) -> None:
        while (item := self._lines.get()) is not None:
            line, status = item
            if self._left_out:
                left_out, self._left_out = self._left_out, 0
                line = f"({left_out} lines left out: nobody read them)\n{line}"
            try:
                if self._terminal:
                    columns = 80
                    with contextlib.suppress(OSError):  # the terminal hung up
                        columns = os.get_terminal_size(self._descriptor).columns or columns
                    line = f"{ERASE}{line}{status[: columns - 1]}"
                self._put(line.encode(errors="replace"))
            except MilepostError as fault:
                self._on_closed(fault)
                return

    def _put(self, text: bytes) -> None:
        while text:
            text = text[write_out(text, self._descriptor) :]


def in_colour(text: str, number: int) -> str:
    """`text` in the colour of this number; they repeat after ten."""
    return f"\x1b[{COLOURS[number % len(COLOURS)]}m{text}\x1b[0m"


def is_colour_terminal(descriptor: int) -> bool:
    """Whether what is written there may have colours."""
    return os.isatty(descriptor) and "NO_COLOR" not in os.environ
