"""Get the running pipeline's AsyncAPI document from its gateway."""

import asyncio
import http.client
from typing import Any
from urllib.parse import urlsplit

from milepost.errors import MilepostError
from milepost.events.strict_json import loads

PATH = "/asyncapi.json"
ANSWER_WITHIN = 10.0
"""Seconds."""


class NoDocument(MilepostError):
    """The gateway does not answer with a document. The text has the address."""


async def fetch(gateway: str) -> dict[str, Any]:
    """Fetch it. Raises NoDocument."""
    return await asyncio.to_thread(_fetch, gateway)


def _fetch(gateway: str) -> dict[str, Any]:
    url = urlsplit(gateway)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(url.netloc.rpartition("@")[2], timeout=ANSWER_WITHIN)
        try:
            connection.request("GET", url.path.rstrip("/") + PATH)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise NoDocument(f"{gateway}{PATH} answered {response.status}")
        document = loads(body)
    except (OSError, ValueError, http.client.HTTPException) as fault:
        raise NoDocument(f"no gateway answers at {gateway}: {fault or type(fault).__name__}") from None
    if not isinstance(document, dict) or "channels" not in document:
        raise NoDocument(f"{gateway}{PATH} is no AsyncAPI document")
    return document
