"""The HTML pages. Every value is escaped, no page needs JavaScript, and none loads anything from elsewhere."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from functions.payloads import OFFICE
from gateway import overview, world_map
from gateway.event_history import EventHistory
from gateway.models import KEY_FIELD, is_key
from gateway.refusal import Refusal
from gateway.status import Status
from milepost.events.ids import new_id
from milepost.events.payload import number

HERE = Path(__file__).parent
STATIC = HERE / "static"

_UNCACHED = {"cache-control": "no-store"}


class Pages:
    """Every page of the gateway."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals["asset"] = asset
        self._templates.globals["map"] = {
            "office": OFFICE,
            "land": world_map.land(),
            "graticule": world_map.graticule(),
            "rings": [(miles, world_map.radius(miles)) for miles in world_map.RINGS],
        }
        self._templates.globals["spark"] = {"width": overview.WIDTH, "height": overview.HEIGHT}
        self._templates.filters["took"] = took
        self._templates.policies["json.dumps_kwargs"] = {"sort_keys": False}

    def form(self, refusal: Refusal | None = None) -> Response:
        """Render the form: empty, or with the fields of a refused one and the faults beside them.

        A refused form keeps its key: if the journal has the event after all, the next try is the same submission.
        """
        fields = refusal.typed.items() if refusal and refusal.typed else ()
        typed = {name: value for name, value in fields if isinstance(value, str)}
        key = typed.pop(KEY_FIELD, "")
        faults = {fault["field"]: fault["fault"] for fault in refusal.faults} if refusal else {}
        return self._page(
            "form.html",
            refusal.status if refusal else 200,
            _retry_after(refusal),
            typed=typed,
            point=_point(typed),
            key=key if is_key(key) else new_id(),
            refusal=refusal,
            faults=faults,
        )

    def submission(self, submission: Status, *, status: int = 200) -> Response:
        """Render the status of a submission. In a browser with JavaScript the page updates itself."""
        place = f"/submissions/{submission.id}"
        return self._page(
            "submission.html",
            status,
            {"location": place} if status == 201 else {"vary": "accept"},
            place=place,
            submission=submission,
            point=_point(submission.submitted),
            now=round(time.time() * 1000),
        )

    def refusal(self, refusal: Refusal) -> Response:
        """Render a refusal, except of a form's fields."""
        return self._page("refusal.html", refusal.status, _retry_after(refusal), refusal=refusal)

    def ops(self, shown: overview.Overview, *, csrf_token: str, notice: str = "", status: int = 200) -> Response:
        """Render the operators' page. Its forms hold the `csrf_token`; `notice` describes the last action."""
        return self._page(
            "ops.html",
            status,
            overview=shown,
            most=overview.MOST_LETTERS,
            csrf_token=csrf_token,
            notice=notice,
            refused=status >= 400,
        )

    def event_history(self, history: EventHistory, *, status: int = 200) -> Response:
        """Render the history of one event, for operators."""
        return self._page("event_history.html", status, history=history)

    def channels(self, channels: Sequence[object], schemas: Mapping[str, Any], description: str) -> Response:
        """Render the page of the channels, from the AsyncAPI description."""
        return self._page("channels.html", channels=channels, all=schemas, description=description)

    def docs(self, api: Mapping[str, Any]) -> Response:
        """Render the page of the API, from its OpenAPI description."""
        return self._page("docs.html", api=api)

    def _page(self, name: str, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any) -> Response:
        page = self._templates.get_template(name).render(**values)
        # JSON may have half a surrogate pair, which UTF-8 cannot hold.
        return HTMLResponse(page.encode(errors="replace"), status, {**_UNCACHED, **(headers or {})})


def _point(fields: Mapping[str, Any]) -> world_map.Point | None:
    """Locate `lat` and `long` on the map. Returns None where they are not valid."""
    try:
        lat, long = number(fields.get("lat")), number(fields.get("long"))
    except ValueError:
        return None
    return world_map.locate(lat, long) if abs(lat) <= 90 and abs(long) <= 180 else None


def took(milliseconds: float) -> str:
    """Write a duration for people: 7 ms, 1.4 s, 2 min 5 s, 3 h 4 min."""
    if milliseconds < 1000:
        return f"{max(0, milliseconds):.0f} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.1f} s"
    minutes, seconds = divmod(int(milliseconds / 1000), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def asset(name: str) -> str:
    """Return the URL of a static file. It changes with the content, so that no browser keeps an old file."""
    return f"/static/{name}?v={_digest(STATIC / name)}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _retry_after(refusal: Refusal | None) -> dict[str, str]:
    return {} if refusal is None or refusal.retry_after is None else {"retry-after": str(refusal.retry_after)}
