import asyncio
from typing import Any, ClassVar

import httpx
import pytest

from tests.contract.contract import StageContract, answered, binary, refused, send, structured
from tests.servers import ANSWER_WITHIN

PLACE = {"email": "ada@example.org", "lat": 51.5074, "long": -0.1278}


class TestDistance(StageContract):
    stage = "distance"
    consumes = "raw_input"
    emits = "calculated_distance"
    data: ClassVar = PLACE
    invalid: ClassVar = [
        ({**PLACE, "email": "nobody"}, "email"),
        ({**PLACE, "email": "a@b.co\nBcc: x@y.co"}, "email"),
        ({**PLACE, "email": "a" * 300 + "@b.co"}, "email"),
        ({**PLACE, "email": {"$ne": None}}, "email"),
        ({**PLACE, "email": None}, "email"),
        ({"lat": 1, "long": 2}, "email"),
        ({**PLACE, "lat": 90.0001}, "lat"),
        ({**PLACE, "lat": "-91"}, "lat"),
        ({**PLACE, "long": 180.5}, "long"),
        ({**PLACE, "long": "1_0"}, "long"),
        ({**PLACE, "lat": "nan"}, "lat"),
        ({**PLACE, "lat": "inf"}, "lat"),
        ({**PLACE, "lat": "1e1"}, "lat"),
        ({**PLACE, "lat": True}, "lat"),
        ({**PLACE, "lat": "north"}, "lat"),
        ({**PLACE, "lat": ""}, "lat"),
        ({**PLACE, "lat": [1]}, "lat"),
        ({**PLACE, "lat": {"$gt": 0}}, "lat"),
        ({**PLACE, "lat": None}, "lat"),
        ({**PLACE, "lat": 10**400}, "lat"),
        ([], "data"),
        ("ada@example.org", "data"),
        (7, "data"),
    ]

    @pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400", "-1e400", "1_0", "0x1", "+1", ".5", "01"])
    def test_invalid_json_numbers_get_400(self, url: str, number: str) -> None:
        headers, _ = binary(self.make())
        body = f'{{"email":"a@b.co","lat":{number},"long":0}}'
        refused(httpx.post(url, headers=headers, content=body, timeout=ANSWER_WITHIN), 400)

    @pytest.mark.parametrize("mode", [binary, structured])
    def test_miles_are_written_at_full_precision(self, url: str, mode: Any) -> None:
        response = send(url, self.make(), mode)
        assert answered(response).get_data() == {
            "email": "ada@example.org",
            "distance_from_velocity": 2216.0742916592476,
        }
        assert b"2216.0742916592476" in response.content

    def test_decimal_strings_and_unknown_fields_are_accepted(self, url: str) -> None:
        data = {"email": "ada@EXAMPLE.org", "lat": "51.5074", "long": "-.1278", "note": "x"}
        assert send(url, self.make(data=data)).json() == {
            "email": "ada@example.org",
            "distance_from_velocity": 2216.0742916592476,
        }

    @pytest.mark.parametrize("path", ["/distance", "/distance/", "/a//b/", "//example.org/", "/metrics/"])
    def test_no_path_is_redirected(self, url: str, path: str) -> None:
        """Behind TLS a redirect to http:// would drop the event, or lead to another host."""
        headers, body = binary(self.make())
        assert httpx.post(url + path, headers=headers, content=body, timeout=ANSWER_WITHIN).status_code == 200
        assert httpx.get(url + path, timeout=ANSWER_WITHIN).status_code == 200

    async def test_fifty_concurrent_events_are_answered(self, url: str) -> None:
        async with httpx.AsyncClient(timeout=ANSWER_WITHIN) as client:

            async def one() -> httpx.Response:
                headers, body = binary(self.make())
                return await client.post(url, headers=headers, content=body)

            responses = await asyncio.gather(*(one() for _ in range(50)))
        assert {response.status_code for response in responses} == {200}
        assert len({response.headers["ce-id"] for response in responses}) == 50
