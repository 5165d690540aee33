"""The channels of the pipeline: `/asyncapi.json` for programs, `/channels` for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from functions import payloads
from gateway.pages import Pages
from milepost.events import asyncapi
from milepost.graph import Graph, WiredStage, order_name


@dataclass(frozen=True)
class Channel:
    """A channel as the page shows it. `consumed_by`: each stage, and the key that its events are ordered by, or "".
    `data` names the schema of its events' data; None means any JSON.
    """

    name: str
    summary: str
    published_by: list[str]
    consumed_by: list[tuple[str, str]]
    data: str | None
    example: Any


def router(stages: Sequence[WiredStage], pages: Pages, *, version: str) -> APIRouter:
    """Both routes, from the payload classes and the stages in the values."""
    doors = {"gateway": payloads.Submission.channel}
    document = asyncapi.document(asyncapi.payloads_of(payloads), stages, doors, version=version)
    graph = Graph(stages)
    orders = {stage.name: order_name(stage.order) for stage in stages}
    shown = [_channel(name, channel, graph, doors, orders) for name, channel in document["channels"].items()]
    schemas = {name: schema for name, schema in document["components"]["schemas"].items() if name != "CloudEvent"}
    routes = APIRouter()

    @routes.api_route("/asyncapi.json", methods=["GET", "HEAD"], include_in_schema=False)
    async def machine_readable() -> Response:
        return JSONResponse(document)

    @routes.api_route("/channels", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> Response:
        return pages.channels(shown, schemas, document["info"]["description"])

    return routes


def _channel(
    name: str, channel: dict[str, Any], graph: Graph, doors: Mapping[str, str], orders: Mapping[str, str]
) -> Channel:
    """Read a channel of the AsyncAPI document."""
    (message,) = channel["messages"].values()
    (_, carried) = message["payload"]["allOf"]
    data = carried["properties"].get("data")
    return Channel(
        name=name,
        summary=channel.get("description", ""),
        published_by=[*(door for door, entered in doors.items() if entered == name), *graph.emitters(name)],
        consumed_by=[(stage, orders[stage]) for stage in graph.consumers(name)],
        data=data and data["$ref"].rpartition("/")[2],
        example=next((one["payload"] for one in message.get("examples", ())), None),
    )
