"""Logs: one line an event, always `key=value`, on standard error."""

import logging
import os


def configure() -> None:
    """Set up logging for a process of Milepost; `LOG_LEVEL` says from which level on, INFO unless set."""
    logging.basicConfig(
        level=os.environ.get("LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        datefmt="%H:%M:%S",
    )
