"""Log why a step fails that is tried again until it succeeds: the first failure, each new reason, one line a minute."""

import logging
import math
import time

from milepost.observe.logs import Fields

log = logging.getLogger("milepost.bridge")

REPEAT_AFTER = 60.0
"""Seconds between two lines with the same reason."""


class FailureLog:
    """The lines about one step. `fields` are in each of them."""

    def __init__(self, **fields: object) -> None:
        self._fields = fields
        self._reason = ""
        self._logged = -math.inf

    def failed(self, reason: str, **more: object) -> None:
        """Log a failure if its line is due. `more`: further fields of the line."""
        now = time.monotonic()
        if reason != self._reason or now - self._logged >= REPEAT_AFTER:
            log.warning(Fields(**self._fields, **more, reason=reason))
            self._reason, self._logged = reason, now

    def succeeded(self) -> None:
        """End these failures: the next one is a first one again."""
        self._reason = ""
