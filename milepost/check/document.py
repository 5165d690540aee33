"""Get the running pipeline's AsyncAPI document from its gateway."""

import asyncio
import http.client
from typing import Any
from urllib.parse import urlsplit

from milepost.errors import ConfigurationError, MilepostError
from milepost.events.strict_json import loads
from milepost.observe.logs import is_cut

PATH = "/asyncapi.json"
ANSWER_WITHIN = 10.0
"""Seconds."""


class NoDocument(MilepostError):
    """The gateway does not answer with a document. The text has the address."""


async def fetch(gateway: str) -> dict[str, Any]:
    """Fetch it. Raises NoDocument, or ConfigurationError for a URL that is none."""
    return await asyncio.to_thread(_fetch, gateway)


def _fetch(gateway: str) -> dict[str, Any]:
    shown = gateway.rpartition("@")[2]  # without user and password
    try:
        url = urlsplit("" if is_cut(gateway) else gateway)
        kind = {"https": http.client.HTTPSConnection, "http": http.client.HTTPConnection}[url.scheme]
        connection = kind(url.netloc.rpartition("@")[2], timeout=ANSWER_WITHIN)
    except (KeyError, ValueError, http.client.InvalidURL):  # the text may hold a part of a password
        raise ConfigurationError(f"{shown}: must look like http://host:port") from None
    try:
        try:
            connection.request("GET", url.path.rstrip("/") + PATH)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise NoDocument(f"{shown}{PATH} answered {response.status}")
        document = loads(body)
    except (OSError, ValueError, http.client.HTTPException) as fault:
        raise NoDocument(f"no gateway answers at {shown}: {fault or type(fault).__name__}") from None
    if not isinstance(document, dict) or "channels" not in document:
        raise NoDocument(f"{shown}{PATH} is no AsyncAPI document")
    return document
