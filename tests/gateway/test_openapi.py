import httpx

from tests.gateway.samples import LONDON


async def test_the_description_names_every_answer_with_an_example(client: httpx.AsyncClient) -> None:
    api = (await client.get("/openapi.json")).json()
    assert set(api["paths"]) == {
        "/distance",
        "/submissions/{id}",
        "/submissions/{id}/events",
        "/healthz",
        "/readyz",
    }
    submit = api["paths"]["/distance"]["post"]
    assert set(submit["responses"]) == {"201", "202", "400", "408", "413", "415", "422", "429", "503"}
    assert {parameter["name"] for parameter in submit["parameters"]} == {"Idempotency-Key", "traceparent"}
    assert len(submit["requestBody"]["content"]) == 3
    follow = api["paths"]["/submissions/{id}"]["get"]
    assert set(follow["responses"]) == {"200", "404", "503"}
    assert set(follow["responses"]["200"]["content"]) == {"application/json", "text/html"}
    watch = api["paths"]["/submissions/{id}/events"]["get"]
    assert set(watch["responses"]) == {"200", "204", "404", "429", "503"}
    assert set(watch["responses"]["200"]["content"]) == {"text/event-stream"}
    assert [parameter["name"] for parameter in watch["parameters"]] == ["id", "Last-Event-ID"]
    for methods in api["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            for status, answer in operation["responses"].items():
                for media, content in answer.get("content", {}).items():
                    assert "example" in content or media == "text/html"
                    if status >= "400" and media != "text/html":
                        assert media == "application/problem+json"
                        assert content["example"]["status"] == int(status)
            for status in operation["responses"].keys() & {"429", "503"}:
                assert "Retry-After" in operation["responses"][status]["headers"]


async def test_every_reference_resolves(client: httpx.AsyncClient) -> None:
    answer = await client.get("/openapi.json")
    schemas = answer.json()["components"]["schemas"]
    assert set(schemas) == {
        "JsonSubmission",
        "Accepted",
        "SubmissionStatus",
        "Reached",
        "SplitStatus",
        "ProblemDetails",
        "FieldFault",
    }
    for piece in answer.text.split('"$ref":"')[1:]:
        assert piece.split('"')[0].removeprefix("#/components/schemas/") in schemas
    latitude = schemas["JsonSubmission"]["properties"]["lat"]
    assert (latitude["minimum"], latitude["maximum"]) == (-90, 90)


async def test_the_examples_are_true(client: httpx.AsyncClient) -> None:
    submit = (await client.get("/openapi.json")).json()["paths"]["/distance"]["post"]
    example = submit["requestBody"]["content"]["application/json"]["example"]
    assert example == LONDON
    accepted = (await client.post("/distance", json=example)).json()
    assert accepted.keys() == submit["responses"]["202"]["content"]["application/json"]["example"].keys()
    faulty = {"email": "ada@example.org", "lat": 91}
    refused = submit["responses"]["422"]["content"]["application/problem+json"]["example"]
    assert (await client.post("/distance", json=faulty)).json() == refused


async def test_the_api_page_shows_every_operation(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    paths = ("/distance", "/submissions/{id}", "/submissions/{id}/events", "/healthz", "/readyz")
    for text in (*paths, "Idempotency-Key", "Last-Event-ID", "curl --json", "413"):
        assert text in page.text
