"""The channels of the pipeline: `/asyncapi.json` for programs, `/channels` for people."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from functions import payloads
from gateway.pages import Pages
from gateway.settings import WiredStage
from milepost.events import asyncapi


@dataclass(frozen=True)
class Channel:
    """A channel as the page shows it. `data` names the schema of its events' data; None means any JSON."""

    name: str
    summary: str
    published_by: list[str]
    consumed_by: list[str]
    data: str | None
    example: Any


def router(stages: Iterable[WiredStage], pages: Pages, *, version: str) -> APIRouter:
    """Both routes, from the payload classes and the stages table."""
    doors = {"gateway": payloads.Submission.channel}
    document = asyncapi.document(asyncapi.payloads_of(payloads), list(stages), doors, version=version)
    shown = [_channel(name, channel, document["operations"].values()) for name, channel in document["channels"].items()]
    schemas = {name: schema for name, schema in document["components"]["schemas"].items() if name != "CloudEvent"}
    routes = APIRouter()

    @routes.api_route("/asyncapi.json", methods=["GET", "HEAD"], include_in_schema=False)
    async def machine_readable() -> Response:
        return JSONResponse(document)

    @routes.api_route("/channels", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> Response:
        return pages.channels(shown, schemas, document["info"]["description"])

    return routes


def _channel(name: str, channel: dict[str, Any], operations: Iterable[dict[str, Any]]) -> Channel:
    (message,) = channel["messages"].values()
    (_, carried) = message["payload"]["allOf"]
    data = carried["properties"].get("data")
    return Channel(
        name=name,
        summary=channel.get("description", ""),
        published_by=_parties("send", name, operations),
        consumed_by=_parties("receive", name, operations),
        data=data and data["$ref"].rpartition("/")[2],
        example=next((one["payload"] for one in message.get("examples", ())), None),
    )


def _parties(action: str, channel: str, operations: Iterable[dict[str, Any]]) -> list[str]:
    reference = asyncapi.reference(channel)
    return [
        operation["tags"][0]["name"]
        for operation in operations
        if operation["action"] == action and operation["channel"] == reference
    ]
