"""The ASGI application of a function's process: functions-framework's, and the stop of the stage's lifespan.

functions-framework loads the function of FUNCTION_SOURCE and FUNCTION_TARGET when the server starts.
"""

from typing import TYPE_CHECKING, Any

from functions_framework.aio import app as framework

from milepost.function.lifespan import leave_all

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send


async def app(scope: "Scope", receive: "Receive", send: "Send") -> Any:
    """Serve a request, or the server's start and stop."""
    if scope["type"] != "lifespan":
        return await framework(scope, receive, send)

    async def leave_before_stop() -> "Message":
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await leave_all()
        return message

    return await framework(scope, leave_before_stop, send)
