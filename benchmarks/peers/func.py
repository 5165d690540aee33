"""The same for Knative's func-python, which is served by hypercorn.

python -m benchmarks.peers.func     LISTEN_ADDRESS in the environment
"""

import json
from typing import Any

from func_python.http import serve

from benchmarks.peers.plain import answer


async def handle(scope: dict[str, Any], receive: Any, send: Any) -> None:
    headers: dict[str, str] = {}
    body = b""
    if scope["method"] == "POST":
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        body, headers = answer(json.loads(body))
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 200, "headers": lines})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    serve(handle)
