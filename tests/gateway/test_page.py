import re
from html.parser import HTMLParser

import httpx
import pytest

PAGES = ["/", "/docs"]
VOID = {"meta", "link", "input", "br", "img", "hr"}


class Tags(HTMLParser):
    """The start tags of a page; AssertionError where they are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


async def test_the_form_works_without_javascript(client: httpx.AsyncClient) -> None:
    tags = Tags((await client.get("/")).text)
    [form] = tags.of("form")
    assert (form["method"], form["action"]) == ("post", "/distance")
    assert [field["name"] for field in tags.of("input")] == ["idempotency_key", "email", "lat", "long"]
    assert [script["type"] for script in tags.of("script")] == ["module"]


async def test_the_key_is_fresh_with_each_view(client: httpx.AsyncClient) -> None:
    keys = {Tags((await client.get("/")).text).of("input")[0]["value"] for _ in range(5)}
    assert len(keys) == 5


async def test_a_page_filled_in_as_a_browser_does_is_accepted(client: httpx.AsyncClient) -> None:
    hidden = Tags((await client.get("/")).text).of("input")[0]
    typed = {str(hidden["name"]): str(hidden["value"]), "email": "ada@example.org", "lat": "51.5074", "long": "-0.1278"}
    first, reloaded = [await client.post("/distance", data=typed) for _ in range(2)]
    assert (first.status_code, reloaded.status_code) == (201, 201)
    assert first.headers["location"] == reloaded.headers["location"]


async def test_each_field_has_its_label_and_its_description(client: httpx.AsyncClient) -> None:
    for page in (await client.get("/"), await client.post("/distance", data={})):
        tags = Tags(page.text)
        ids = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        labelled = {label["for"] for label in tags.of("label")}
        for field in tags.of("input")[1:]:
            assert field["id"] in labelled
            assert set(str(field["aria-describedby"]).split()) <= set(ids)


async def test_errors_are_announced_and_lead_to_their_fields(client: httpx.AsyncClient) -> None:
    page = await client.post("/distance", data={"email": "ada@example.org"})
    tags = Tags(page.text)
    assert [attributes["role"] for _, attributes in tags.tags if attributes.get("role") == "alert"] == ["alert"]
    assert "<title>Error: " in page.text
    assert {link["href"] for link in tags.of("a")} >= {"#lat", "#long"}


@pytest.mark.parametrize("path", PAGES)
async def test_nothing_is_fetched_from_elsewhere_or_styled_in_line(client: httpx.AsyncClient, path: str) -> None:
    page = await client.get(path)
    tags = Tags(page.text)
    fetched = [
        attributes[name]
        for tag, attributes in tags.tags
        for name in ("src", "href")
        if name in attributes and tag != "a"
    ]
    assert fetched
    for url in fetched:
        assert str(url).startswith("/static/")
        assert (await client.get(str(url))).status_code == 200
    assert tags.of("style") == []
    assert not any(
        "style" in attributes or any(name.startswith("on") for name in attributes) for _, attributes in tags.tags
    )
    assert "url(" not in (await client.get(str(tags.of("link")[1]["href"]))).text


async def test_the_page_with_all_it_needs_is_under_60_kb(client: httpx.AsyncClient) -> None:
    form = await client.get("/")
    accepted = await client.post("/distance", data={"email": "ada@example.org", "lat": "1", "long": "2"})
    tags = Tags(form.text)
    urls = [str(link["href"]) for link in tags.of("link")] + [str(script["src"]) for script in tags.of("script")]
    files = [await client.get(url) for url in urls]
    assert {answer.status_code for answer in (form, *files)} == {200}
    for page in (form, accepted):
        assert sum(len(answer.content) for answer in (page, *files)) < 60_000


async def test_light_and_dark(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert '<meta name="color-scheme" content="light dark">' in page.text
    css = (await client.get(str(Tags(page.text).of("link")[1]["href"]))).text
    assert "@media (prefers-color-scheme: dark)" in css


@pytest.mark.parametrize(("theme", "start"), [("light", ":root {"), ("dark", "@media (prefers-color-scheme: dark)")])
async def test_text_can_be_read(client: httpx.AsyncClient, theme: str, start: str) -> None:
    """Contrast of at least 4.5 to 1 for text, 3 to 1 for the edges of fields (WCAG 2.2, 1.4.3 and 1.4.11)."""
    css = (await client.get("/static/milepost.css")).text
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", css[css.index(start) :].split("}")[0]))
    for text in ("ink", "soft", "accent", "bad"):
        for ground in ("paper", "sheet", "code"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["bad"], colours["bad-wash"]) >= 4.5
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
    assert contrast(colours["edge"], colours["sheet"]) >= 3
    assert contrast(colours["signal"], colours["paper"]) >= 3


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("GET", "/docs", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/static/milepost.css", 200),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/nowhere", 404),
        ("GET", "/static/../app.py", 404),
        ("GET", "/static/%2e%2e/app.py", 404),
        ("GET", "/distance", 405),
        ("DELETE", "/submissions/1", 405),
        ("POST", "/distance", 415),
    ],
)
async def test_every_answer_has_the_security_headers(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    for rule in (
        "script-src 'self'",
        "connect-src 'self'",
        "style-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ):
        assert rule in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "server" not in answer.headers
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
        page = await client.request(method, path, headers={"Accept": "text/html,*/*;q=0.8"})
        assert page.status_code == status
        assert page.headers["content-type"] == "text/html; charset=utf-8"
    if status == 405:
        assert answer.headers["allow"]
