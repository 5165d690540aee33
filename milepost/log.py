"""Logs: one line an event, always `key=value`, on standard error."""

import logging
import os

from milepost.errors import ConfigurationError


def configure() -> None:
    """Set up logging for a process of Milepost; `LOG_LEVEL` says from which level on, INFO unless set.

    Raises ConfigurationError.
    """
    level = os.environ.get("LOG_LEVEL", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise ConfigurationError("LOG_LEVEL: must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
