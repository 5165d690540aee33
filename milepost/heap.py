"""What a process has loaded stays as long as it does, so its garbage collector need not look at it again and again."""

import gc
from functools import cache


@cache
def keep_what_is_loaded() -> None:
    """To be called when serving begins: what is there by then is never looked at again. Later calls do nothing, for
    they would keep what was garbage at that moment.
    """
    gc.freeze()
