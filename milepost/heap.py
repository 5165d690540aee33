"""What a process has loaded stays as long as it does, so its garbage collector need not look at it again and again."""

import gc
from functools import cache

YOUNG = 5_000
"""Objects made and not yet freed before the collector looks at them; a bare Python 3.11 has 700. A request or a batch
makes hundreds, nearly all of which are freed without it.
"""


@cache
def keep_what_is_loaded() -> None:
    """To be called when serving begins: what is there by then is never looked at again, and what comes later is left
    time to go by itself. Later calls do nothing, for they would keep what was garbage at that moment.
    """
    gc.freeze()
    gc.set_threshold(YOUNG)
