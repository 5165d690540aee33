"""Bad input gets a clear error that names each field, and nothing is published."""

import json
from typing import Any

import httpx
import pytest

from tests.gateway.samples import LONDON, Published

NESTED = "[" * 500 + "]" * 500
TEXT_FAULTS = {
    "wrong e-mail": ("email", "ada"),
    "two at-signs": ("email", "a@b@example.org"),
    "e-mail with a newline inside": ("email", "ada@example.org\nBcc: eve@example.org"),
    "e-mail with a newline at its end": ("email", "ada@example.org\n"),
    "e-mail with a carriage return": ("email", "ada\r@example.org"),
    "e-mail with NUL": ("email", "ada\x00@example.org"),
    "e-mail of 300 characters": ("email", "a" * 288 + "@example.org"),
    "latitude above 90": ("lat", "90.0001"),
    "latitude below -90": ("lat", "-91"),
    "longitude above 180": ("long", "180.1"),
    "longitude below -180": ("long", "-181"),
    "NaN": ("lat", "NaN"),
    "inf": ("long", "inf"),
    "Infinity": ("long", "-Infinity"),
    "1e400": ("lat", "1e400"),
    "true": ("lat", "true"),
    "1_0": ("lat", "1_0"),
    "text": ("long", "west"),
    "decimal comma": ("lat", "51,5"),
    "Arabic digits": ("lat", "٤٥"),
    "newline after a number": ("lat", "51.5\n"),
}
JSON_FAULTS: dict[str, tuple[str, str]] = {
    "NaN": ("lat", "NaN"),
    "-Infinity": ("long", "-Infinity"),
    "1e400": ("lat", "1e400"),
    "true": ("lat", "true"),
    "null": ("email", "null"),
    "list": ("long", "[1]"),
    "operator for a number": ("lat", '{"$gt": 0}'),
    "operator for a string": ("email", '{"$ne": null}'),
    "number for a string": ("email", "17"),
    "nested deeply": ("email", NESTED),
    "lone surrogate": ("email", '"\\ud800@example.org"'),
    "digits without end": ("long", "9" * 4000),
}


def fields(answer: httpx.Response) -> list[str]:
    """The faulty fields of a 422 that is as it should be."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 422
    assert all(error.keys() == {"field", "fault"} and error["fault"] for error in problem["errors"])
    return [error["field"] for error in problem["errors"]]


@pytest.mark.parametrize(("field", "value"), TEXT_FAULTS.values(), ids=TEXT_FAULTS)
async def test_a_faulty_text_is_named_and_kept(
    client: httpx.AsyncClient, published: Published, field: str, value: str
) -> None:
    body = {**{name: str(good) for name, good in LONDON.items()}, field: value}
    assert fields(await client.post("/distance", json=body)) == [field]
    page = await client.post("/distance", data=body)
    assert page.status_code == 422
    assert page.text.count('class="fault"') == 1
    assert f'id="{field}-fault"' in page.text
    assert f'aria-describedby="{field}-hint {field}-fault" aria-invalid="true" autofocus' in page.text
    assert f'value="{value}"' in page.text.replace("\r", "") or "\r" in value or "\x00" in value
    files: Any = {name: (None, text) for name, text in body.items()}
    multipart = await client.post("/distance", files=files, headers={"Accept": "application/json"})
    assert fields(multipart) == [field]
    assert await published() == []


@pytest.mark.parametrize(("field", "value"), JSON_FAULTS.values(), ids=JSON_FAULTS)
async def test_a_faulty_json_value_is_named(
    client: httpx.AsyncClient, published: Published, field: str, value: str
) -> None:
    body = json.dumps({**LONDON, field: "HERE"}).replace('"HERE"', value)
    answer = await client.post("/distance", content=body, headers={"Content-Type": "application/json; charset=utf-8"})
    assert fields(answer) == [field]
    assert await published() == []


@pytest.mark.parametrize("missing", LONDON)
async def test_a_missing_field_is_named(client: httpx.AsyncClient, published: Published, missing: str) -> None:
    body = {name: value for name, value in LONDON.items() if name != missing}
    answer = await client.post("/distance", json=body)
    assert answer.json()["errors"] == [{"field": missing, "fault": "is missing"}]
    for form in (body, {**body, missing: " "}):
        page = await client.post("/distance", data=form)
        assert page.status_code == 422
        assert f'id="{missing}-fault"' in page.text
    assert await published() == []


async def test_every_faulty_field_is_named_and_the_first_has_the_focus(
    client: httpx.AsyncClient, published: Published
) -> None:
    body = {"email": "ada@example.org", "lat": "91", "long": "x"}
    assert (await client.post("/distance", json=body)).json()["errors"] == [
        {"field": "lat", "fault": "must be at most 90"},
        {"field": "long", "fault": "must be a number"},
    ]
    page = await client.post("/distance", data=body)
    assert page.text.count("autofocus") == 1
    assert page.text.index('id="lat"') < page.text.index("autofocus") < page.text.index('id="long"')
    assert 'value="ada@example.org"' in page.text
    assert await published() == []


async def test_fields_that_are_none_of_a_submission_are_named(client: httpx.AsyncClient, published: Published) -> None:
    for name in ("extra", "", "$where", "\ud800", "__proto__", "<b>", "x" * 1000):
        [field] = fields(
            await client.post("/distance", content=json.dumps({**LONDON, name: {"$gt": ""}}), headers=JSON)
        )
        assert 0 < len(field) <= 65
    assert fields(await client.post("/distance", data={**TEXTS, "email[$ne]": "1"}, headers=WANTS_JSON)) == [
        "email[$ne]"
    ]
    many = {**LONDON, **{f"field{number}": number for number in range(1000)}}
    assert len(fields(await client.post("/distance", json=many))) == 20
    assert await published() == []


async def test_a_field_given_twice_is_named(client: httpx.AsyncClient, published: Published) -> None:
    twice = "email=ada@example.org&email=eve@example.org&lat=1&long=2"
    headers = {"Content-Type": "application/x-www-form-urlencoded", **WANTS_JSON}
    assert fields(await client.post("/distance", content=twice, headers=headers)) == ["email"]
    names_in_json = {
        '{"email": "ada@example.org", "email": "eve@example.org", "lat": 1, "long": 2}': ["email"],
        '{"email": "ada@example.org", "lat": 1, "long": 2, "long": 2, "lat": 1.0}': ["lat", "long"],
        '{"email": "ada@example.org", "\\u0065mail": "ada@example.org", "lat": 1, "long": 2}': ["email"],
        '{"email": "ada@example.org", "lat": 1, "long": {"x": 1, "x": 2}}': ["x"],
    }
    for body, names in names_in_json.items():
        answer = await client.post("/distance", content=body, headers=JSON)
        assert fields(answer) == names
        assert {error["fault"] for error in answer.json()["errors"]} == {"must be given once"}
    assert await published() == []


async def test_a_key_that_is_empty_is_named_and_not_taken_for_none(
    client: httpx.AsyncClient, published: Published
) -> None:
    for sent in ({"json": LONDON}, {"data": TEXTS}):
        answer = await client.post("/distance", **sent, headers={"Idempotency-Key": "", **WANTS_JSON})  # type: ignore[arg-type]
        assert fields(answer) == ["Idempotency-Key"]
    assert await published() == []


async def test_a_file_is_not_a_field(client: httpx.AsyncClient, published: Published) -> None:
    parts: Any = {**{name: (None, text) for name, text in TEXTS.items()}, "lat": ("lat.txt", b"51.5", "text/plain")}
    assert fields(await client.post("/distance", files=parts, headers=WANTS_JSON)) == ["lat"]
    extra: Any = {**{name: (None, text) for name, text in TEXTS.items()}, "cv": ("cv.pdf", b"%PDF", "application/pdf")}
    assert fields(await client.post("/distance", files=extra, headers=WANTS_JSON)) == ["cv"]
    page = await client.post("/distance", files=parts)
    assert page.status_code == 422
    assert 'id="lat-fault"' in page.text
    assert await published() == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"email=ada@example.org",
        b'{"email": "\xff"}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"lat": ' + b"9" * 5000 + b"}",
        b"\x00",
    ],
)
async def test_broken_json_is_400(client: httpx.AsyncClient, published: Published, body: bytes) -> None:
    answer = await client.post("/distance", content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["title"] == "Bad Request"
    assert await published() == []


@pytest.mark.parametrize("body", ["null", "17", '"text"', "[]", "true"])
async def test_json_that_is_no_object_is_422(client: httpx.AsyncClient, published: Published, body: str) -> None:
    assert fields(await client.post("/distance", content=body, headers=JSON)) == ["body"]
    assert await published() == []


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/xml", "application/jsonp", "application/cloudevents+json"]
)
async def test_another_content_type_is_415(
    client: httpx.AsyncClient, published: Published, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await client.post("/distance", content=json.dumps(LONDON), headers=headers)
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"
    assert await published() == []


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=other",
        "multipart/form-data; boundary=cut; charset=idna",
        "multipart/form-data; boundary=cut; charset=hex",
    ],
)
async def test_a_broken_form_is_refused(client: httpx.AsyncClient, published: Published, content_type: str) -> None:
    body = b'--cut\r\nContent-Disposition: form-data; name="email"\r\n\r\n\xff\xfe.\x80..\r\n--cut'
    answer = await client.post("/distance", content=body, headers={"Content-Type": content_type, **WANTS_JSON})
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"
    assert await published() == []


@pytest.mark.parametrize(
    ("media", "body"),
    [
        ("application/x-www-form-urlencoded", b"email=%FCda@example.org&lat=1&long=2"),
        ("application/x-www-form-urlencoded", b"email=\xfcda@example.org&lat=1&long=2"),
        (
            "multipart/form-data; boundary=cut",
            b"".join(
                b'--cut\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % field
                for field in ((b"email", b"\xfcda@example.org"), (b"lat", b"1"), (b"long", b"2"))
            )
            + b"--cut--\r\n",
        ),
    ],
    ids=["escaped", "raw", "in parts"],
)
async def test_a_form_that_is_not_utf_8_does_not_become_another_address(
    client: httpx.AsyncClient, published: Published, media: str, body: bytes
) -> None:
    answer = await client.post("/distance", content=body, headers={"Content-Type": media, **WANTS_JSON})
    assert answer.status_code == 400
    assert "The form cannot be read" in answer.json()["detail"]
    assert await published() == []


async def test_a_form_of_very_many_fields_is_refused(client: httpx.AsyncClient, published: Published) -> None:
    answer = await client.post("/distance", data={f"f{number}": "" for number in range(2000)})
    assert answer.status_code == 400
    assert "text/html" in answer.headers["content-type"]
    assert await published() == []


@pytest.mark.parametrize("body", ["&" * 100 + "{}", "{}" + "&" * 100], ids=["before", "behind"])
async def test_separators_are_no_fields(client: httpx.AsyncClient, published: Published, body: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", **WANTS_JSON}
    answer = await client.post("/distance", content=body.format("email=ada@example.org&lat=1&long=2"), headers=headers)
    assert answer.status_code == 201
    assert len(await published()) == 1


@pytest.mark.parametrize(
    "attack",
    [
        '"><script>alert(1)</script>',
        "' autofocus onfocus=alert(1) x='",
        "{{ 7*7 }}",
        "</title><script>alert(1)</script>",
        "javascript:alert(1)",
        "&quot;><img src=x onerror=alert(1)>",
    ],
)
async def test_typed_text_never_becomes_markup(client: httpx.AsyncClient, published: Published, attack: str) -> None:
    page = await client.post(
        "/distance", data={"email": attack, "lat": attack, "long": attack, "idempotency_key": attack, attack: attack}
    )
    assert page.status_code == 422
    assert page.text.count("<script") == page.text.count('<script type="module" src="/static/milepost.js?v=') == 1
    assert "<img" not in page.text
    assert "x='" not in page.text
    assert 'value="49"' not in page.text
    missing = await client.get(f"/{attack}", headers={"Accept": "text/html"})
    assert missing.status_code == 404
    assert missing.text.count("<script") == 1
    assert "<img" not in missing.text
    assert await published() == []


async def test_form_may_have_utf_8_that_is_not_percent_encoded(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", **WANTS_JSON}
    body = "email=jörg@example.org&lat=1&long=2"
    accepted = await client.post("/distance", content=body.encode(), headers=headers)
    assert accepted.status_code == 201, accepted.text
    (reached, *_) = (await client.get(accepted.json()["status"])).json()["channels"]
    assert reached["data"]["email"] == "jörg@example.org"
    refused = await client.post("/distance", content=body.encode("latin-1"), headers=headers)
    assert (refused.status_code, "not UTF-8" in refused.text) == (400, True)


async def test_an_accepted_address_never_becomes_markup(client: httpx.AsyncClient) -> None:
    page = await client.post("/distance", data={**TEXTS, "email": "o'hara&co@example.org"})
    assert page.status_code == 201
    assert "o&#39;hara&amp;co@example.org" in page.text


JSON = {"Content-Type": "application/json"}
WANTS_JSON = {"Accept": "application/json"}
TEXTS = {name: str(value) for name, value in LONDON.items()}


async def test_json_is_read_with_a_byte_order_mark_and_as_utf_8_alone(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    body = json.dumps(LONDON)
    assert (await client.post("/distance", content=body.encode("utf-8-sig"), headers=headers)).status_code == 202
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        answer = await client.post("/distance", content=body.encode(encoding), headers=headers)
        assert answer.status_code == 400, encoding
