"""The stage `distance` written for functions-framework alone: no payload class, no validation of the event, no errors.

FUNCTION_SOURCE=benchmarks/peers/plain.py FUNCTION_TARGET=main uvicorn functions_framework.aio:app
FUNCTION_SOURCE=benchmarks/peers/plain.py FUNCTION_TARGET=sync_main functions-framework
"""

import json
from typing import Any

from geopy.distance import geodesic
from starlette.requests import Request
from starlette.responses import Response

OFFICE = (32.080058, 34.864535)


def answer(event: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    data = event["data"]
    miles = geodesic((data["lat"], data["long"]), OFFICE).miles
    headers = {
        "ce-specversion": "1.0",
        "ce-id": event["id"],
        "ce-source": "/plain/distance",
        "ce-type": "calculated_distance",
        "content-type": "application/json",
    }
    return json.dumps({"email": data["email"], "distance_from_velocity": miles}).encode(), headers


async def main(request: Request) -> Response:
    if request.method == "GET":
        return Response()
    body, headers = answer(await request.json())
    return Response(body, headers=headers)


def sync_main(request: Any) -> Any:  # a Flask request
    if request.method == "GET":
        return ""
    body, headers = answer(json.loads(request.get_data()))
    return body, 200, headers
