"""The ASGI application of a function's process: functions-framework's, the stop of the stage's lifespan, and its spans.

functions-framework loads the function of FUNCTION_SOURCE and FUNCTION_TARGET when the server starts.
"""

import gc
from typing import TYPE_CHECKING, Any

from milepost.function import framework
from milepost.function.lifespan import leave_all
from milepost.observe.traces import export_waiting
from milepost.server.protocol import freeze_heap

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

# A start makes modules, which stay. To look for garbage among them is a tenth of its CPU. The collector is on again
# before the first request: freeze_heap leaves these modules out of it, and enables it.
gc.disable()
served = framework.load()


async def app(scope: "Scope", receive: "Receive", send: "Send") -> Any:
    """Serve a request, or the server's start and stop."""
    if scope["type"] != "lifespan":
        freeze_heap()
        return await served(scope, receive, send)

    async def leave_before_stop() -> "Message":
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await leave_all()
            await export_waiting()
        return message

    return await served(scope, leave_before_stop, send)
