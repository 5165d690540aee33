"""Exit codes, and the errors that commands raise.

MilepostError
  Unreachable    Redis or the gateway does not answer
  OutputClosed   nobody reads stdout any more
  CommandFailed  the command could not do what it was asked for
"""

import enum

from milepost.errors import BacklogFull, ConfigurationError, EventError, JournalUnavailable, MilepostError


class Exit(enum.IntEnum):
    """Exit codes."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    BURIED = 4
    UNFINISHED = 5
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141


EXIT_CODES = """
Exit codes: 0 done; 1 it failed; 2 the command line, a setting or the project is wrong; 3 Redis, MongoDB or the
gateway does not answer or takes nothing now (try again); 4 the event became a dead letter; 5 not finished in time;
130 interrupted; 141 nobody reads its output any more.
"""


class Unreachable(MilepostError):
    """Redis, MongoDB or the gateway does not answer, or takes nothing now. The text has the address."""


class OutputClosed(MilepostError):
    """Nobody reads standard output any more. Ends the command without a message, as SIGPIPE would."""


class CommandFailed(MilepostError):
    """The command could not do what it was asked for."""


def exit_code(fault: MilepostError) -> Exit:
    """Return the exit code for an error."""
    match fault:
        case ConfigurationError() | EventError():
            return Exit.USAGE
        case Unreachable() | JournalUnavailable() | BacklogFull():
            return Exit.UNREACHABLE
        case OutputClosed():
            return Exit.OUTPUT_CLOSED
        case _:
            return Exit.FAILED
