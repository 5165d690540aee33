"""The HTML pages: every value escaped, no JavaScript needed, nothing fetched from elsewhere."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from functions.payloads import Submission
from gateway.refusal import Refusal
from milepost.ids import new_id

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
        self._templates.policies["json.dumps_kwargs"] = {"sort_keys": False}

    def form(
        self, typed: Mapping[str, str] | None = None, *, key: str | None = None, refusal: Refusal | None = None
    ) -> Response:
        """The form: fresh, or as it was typed with the refusal's faults beside the fields."""
        faults = {fault["field"]: fault["fault"] for fault in refusal.faults} if refusal else {}
        return self._page(
            "form.html",
            refusal.status if refusal else 200,
            _retry_after(refusal),
            typed=typed or {},
            key=key or new_id(),
            refusal=refusal,
            faults=faults,
        )

    def accepted(self, event_id: str, submission: Submission) -> Response:
        """What happens next with a submission, and where to look."""
        place = f"/submissions/{event_id}"
        return self._page("accepted.html", 201, {"location": place}, place=place, id=event_id, submission=submission)

    def refusal(self, refusal: Refusal) -> Response:
        """A refusal that is not about the form's fields."""
        return self._page("refusal.html", refusal.status, _retry_after(refusal), refusal=refusal)

    def docs(self, api: Mapping[str, Any]) -> Response:
        """The API's page, from its OpenAPI description."""
        return self._page("docs.html", api=api)

    def _page(self, name: str, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any) -> Response:
        page = self._templates.get_template(name).render(**values)
        return HTMLResponse(page, status, {**_UNCACHED, **(headers or {})})


def asset(name: str) -> str:
    """The URL of a static file. It changes with the contents, so that no browser keeps an old one."""
    return f"/static/{name}?v={_digest(STATIC / name)}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _retry_after(refusal: Refusal | None) -> dict[str, str]:
    return {} if refusal is None or refusal.retry_after is None else {"retry-after": str(refusal.retry_after)}
