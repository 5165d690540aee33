"""Log why a step fails that is tried again until it succeeds: each reason when it is new, and then once a minute."""

import logging
import time

from milepost.observe.logs import Fields

log = logging.getLogger("milepost.bridge")

REPEAT_AFTER = 60.0
"""Seconds between two lines with the same reason."""


class FailureLog:
    """The lines about one step. `fields` are in each of them."""

    def __init__(self, **fields: object) -> None:
        self._fields = fields
        self._logged: dict[str, float] = {}

    def failed(self, reason: str | BaseException, **more: object) -> None:
        """Log a failure if its line is due. An exception without a text is named. `more`: further fields."""
        text = str(reason) or type(reason).__name__
        now = time.monotonic()
        self._logged = {one: at for one, at in self._logged.items() if now - at < REPEAT_AFTER}
        if text not in self._logged:
            log.warning(Fields(**self._fields, **more, reason=text))
            self._logged[text] = now

    def succeeded(self) -> None:
        """End these failures: the next one is a first one again."""
        self._logged = {}
