"""Set up logging in a function's process, which uvicorn serves."""

import logging
import os

from milepost.errors import ConfigurationError
from milepost.observe import logs


def configure() -> None:
    """Log as every process of Milepost does, uvicorn's lines included. A wrong setting ends the process with one
    sentence, without a traceback. Does nothing more where the function is imported and not served, as in tests.

    Raises ConfigurationError.
    """
    logging.getLogger("uvicorn.error").addFilter(_without_traceback)
    if "FUNCTION_TARGET" not in os.environ:
        return
    logs.configure()
    for name in ("uvicorn", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _without_traceback(record: logging.LogRecord) -> bool:
    fault = record.exc_info[1] if record.exc_info else None
    if isinstance(fault, ConfigurationError):
        record.msg, record.args, record.exc_info = str(fault), (), None
    return True
