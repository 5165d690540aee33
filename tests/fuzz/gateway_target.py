"""The gateway: its JSON, its form, and bytes on its socket."""

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from hypothesis import strategies as st

from tests.fuzz import inputs, oracle
from tests.fuzz.link import Reply, ask_all, request, tell_all
from tests.fuzz.target import JSON, TYPES, Sent, Tally, Target
from tests.fuzz.world import World

JOURNAL = "{milepost}:journal:raw_input"
FORM = (b"content-type", b"application/x-www-form-urlencoded")
PARTS = (b"content-type", f"multipart/form-data; boundary={inputs.BOUNDARY}".encode())
TEXTS = {name: str(value) for name, value in inputs.PLACE.items()}
GOOD = request("/distance", [JSON], inputs.write(inputs.PLACE))

extra = st.one_of(
    st.just([]),
    st.tuples(
        st.sampled_from([b"idempotency-key", b"traceparent", b"accept", b"x-forwarded-for", b"content-encoding"]),
        inputs.text.map(lambda text: inputs.header_value(text, encode=False)),
    ).map(lambda header: [header]),
)
"""One more header, now and then."""


@st.composite
def in_json(draw: Callable[..., Any]) -> Sent:
    body = inputs.write(draw(inputs.payloads("raw_input")))
    kind = draw(st.integers(0, 19))
    body = draw(inputs.damaged(body)) if kind < 5 else draw(inputs.huge()) if kind == 19 else body
    media = JSON if kind != 5 else (b"content-type", draw(st.sampled_from(TYPES)))
    return Sent([media, *draw(extra)], body)


@st.composite
def in_a_form(draw: Callable[..., Any]) -> Sent:
    """The three fields as texts, some changed, removed, given twice or added; urlencoded or in parts."""
    fields = list(TEXTS.items())
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.one_of(st.sampled_from([*TEXTS, "idempotency_key"]), inputs.text))
        if draw(st.booleans()):
            fields = [field for field in fields if field[0] != name]
        value = draw(st.one_of(inputs.text, st.sampled_from(["90.0", " 1 ", "-180", "+.5", "5e1", inputs.ADDRESS])))
        fields.insert(draw(st.integers(0, len(fields))), (name, value))
    in_parts = draw(st.booleans())
    body = inputs.multipart(fields, file=draw(st.integers(0, 9)) == 0) if in_parts else inputs.form(fields)
    kind = draw(st.integers(0, 19))
    body = draw(inputs.damaged(body)) if kind < 4 else draw(inputs.huge()) if kind == 19 else body
    accept = draw(st.sampled_from([[], [(b"accept", b"application/json")], [(b"accept", b"text/html")]]))
    return Sent([PARTS if in_parts else FORM, *accept, *draw(extra)], body)


def submit(world: World, batch: Sequence[Sent]) -> Tally:
    requests = [sent.written("/distance") for sent in batch]
    *replies, last = world.run(ask_all(world.links(world.gateway), [*requests, GOOD]))
    assert last.status == 202, last
    tally = Tally()
    places = {}
    for sent, reply in zip(batch, replies, strict=True):
        guarded(reply)
        if reply.status in {201, 202}:
            places[accepted_as(reply)] = sent
            tally.good += 1
        else:
            oracle.refused(reply)
            tally.bad += 1
    kept = journaled(world)
    assert set(kept) == {*places, accepted_as(last)} - world.submitted, (places, kept)
    world.submitted.update(places)
    for event_id in places.keys() & kept.keys():
        meant(places[event_id], kept[event_id])
    world.alive()
    return tally


def accepted_as(reply: Reply) -> str:
    """The id that the gateway gave to a submission."""
    event_id = reply.headers["location"].removeprefix("/submissions/")
    assert str(UUID(event_id)) == event_id
    if reply.media == "application/json":
        assert oracle.json_of(reply.body) == {"id": event_id, "status": f"/submissions/{event_id}"}
    return event_id


def guarded(reply: Reply) -> None:
    """Check the security headers of a response that the gateway itself made."""
    if not oracle.is_of_the_server(reply):
        assert reply.headers["content-security-policy"].startswith("default-src 'none'"), reply
        assert reply.headers["x-content-type-options"] == "nosniff"


def journaled(world: World) -> dict[str, dict[str, Any]]:
    """Return the submissions published since the last call, by id. Checks that each is valid."""
    found = {}
    for _, fields in world.gateway_redis.xrange(JOURNAL):
        event = oracle.event(json.loads(fields[b"event"]))
        assert event is not None, fields
        data = event["data"]
        assert set(data) == {"email", "lat", "long"}, data
        assert oracle.payload("raw_input", data) is not None, data
        assert all(isinstance(data[name], float) for name in ("lat", "long")), data
        found[event["id"]] = data
    world.gateway_redis.xtrim(JOURNAL, maxlen=0)
    return found


def meant(sent: Sent, kept: dict[str, Any]) -> None:
    """Check that the journaled submission equals the request."""
    media = dict(sent.headers)[b"content-type"].lower()
    if media.startswith(b"multipart"):
        assert kept["email"].partition("@")[0].encode() in sent.body, (sent, kept)
        return
    if media == FORM[1]:
        pairs = parse_qsl(sent.body.decode(), keep_blank_values=True, errors="strict")
        said: dict[str, Any] = {name: value.strip(" \t") for name, value in pairs}
        assert len([name for name, _ in pairs if name in kept]) == len(kept), sent
    else:
        said = json.loads(sent.body)
        assert not set(said) - set(kept), sent
    read = oracle.payload("raw_input", said)
    assert isinstance(read, dict), (sent, kept)
    assert (read["lat"], read["long"]) == (kept["lat"], kept["long"])
    assert all(float(Decimal(str(said[name]))) == kept[name] for name in ("lat", "long"))
    assert (
        read["email"] == kept["email"] or not read["email"].isascii() or read["email"].lower() == kept["email"].lower()
    )


@st.composite
def raw_requests(draw: Callable[..., Any]) -> bytes:
    """The bytes of a request, damaged."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=80))
    path, method = "/distance", "POST"
    if draw(st.booleans()):
        paths = ["/", "/docs", "/submissions/x", "/static/../app.py", "/static/%2e%2e/app.py", "/readyz", "//", "/%ff"]
        path = draw(st.sampled_from([*paths, "/openapi.json", "/static/style.css%00", "*", "/distance?a[$ne]=1"]))
        method = draw(st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "HEAD", "PRI", "CONNECT"]))
    sound = request(path, [JSON, *draw(extra)], inputs.write(inputs.PLACE), method)
    return draw(inputs.damaged(sound, 2))


def raw(world: World, batch: Sequence[bytes]) -> Tally:
    tally = Tally()
    for reply in world.run(tell_all(world.gateway.port, batch)):
        if reply is not None and reply.status < 400:
            guarded(reply)
            tally.good += 1
            continue
        tally.bad += 1
        if reply is not None and reply.body:
            guarded(reply)
            oracle.refused(reply)
    (last,) = world.run(ask_all(world.links(world.gateway)[:1], [GOOD]))
    assert last.status == 202, last
    assert accepted_as(last) in journaled(world)
    world.alive()
    return tally


TARGETS = [
    Target("gateway, JSON", lambda _: in_json(), submit),
    Target("gateway, form", lambda _: in_a_form(), submit),
    Target("gateway, raw bytes", lambda _: raw_requests(), raw, batch=60, share=0.75),
]
