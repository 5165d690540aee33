"""The buttons of /ops replay and drop dead letters and pause stages; forms of other sites are refused."""

import httpx
import pytest
from redis.asyncio import Redis

from gateway.overview import MOST_LETTERS
from milepost.journal import Journal, keys
from tests.gateway.operating import ROUTES, buried, serve
from tests.gateway.test_page import Tags


async def csrf_token(browser: httpx.AsyncClient) -> str:
    [*fields] = Tags((await browser.get("/ops")).text).of("input")
    return str(next(field["value"] for field in fields if field["name"] == "csrf_token"))


async def test_a_dead_letter_is_replayed_from_the_page(browser: httpx.AsyncClient, journal: Journal) -> None:
    """As a browser does it without JavaScript: a form, and then a page that can be reloaded."""
    first, second = await buried(journal, 2)
    form = {"entry": first, "csrf_token": await csrf_token(browser)}
    answer = await browser.post("/ops/distance/replay", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ops?done=replayed&count=1")
    assert "1 dead letter replayed." in (await browser.get(answer.headers["location"])).text
    assert [letter.entry for letter in await journal.admin.dead_letters("distance")] == [second]
    assert await journal.redis.xlen(keys.retries("distance", "raw_input")) == 1


async def test_a_stage_is_paused_and_resumed_from_the_page(browser: httpx.AsyncClient, journal: Journal) -> None:
    await serve(journal, ROUTES)
    form = {"csrf_token": await csrf_token(browser)}
    paused = await browser.post("/ops/distance/pause", data=form)
    assert (paused.status_code, paused.headers["location"]) == (303, "/ops?done=paused")
    page = (await browser.get(paused.headers["location"])).text
    assert "The stage is paused." in page
    assert 'action="/ops/distance/resume"' in page
    assert await journal.admin.paused() == {"distance"}
    assert (await browser.get("/ops.json")).json()["stages"][0]["state"] == "paused"
    await browser.post("/ops/distance/resume", data=form)
    assert await journal.admin.paused() == frozenset()
    assert (await browser.post("/ops/unknown/pause", data=form)).status_code == 404
    assert (await browser.post("/ops/distance/pause")).status_code == 403
    assert await journal.admin.paused() == frozenset()


async def test_all_dead_letters_are_dropped(browser: httpx.AsyncClient, journal: Journal) -> None:
    await buried(journal, 120)
    answer = await browser.post("/ops/distance/drop", data={"entry": "all", "csrf_token": await csrf_token(browser)})
    assert answer.headers["location"] == "/ops?done=dropped&count=120"
    assert await journal.admin.dead_letters("distance") == []


async def test_all_means_the_oldest_500_dead_letters(browser: httpx.AsyncClient, journal: Journal) -> None:
    await buried(journal, MOST_LETTERS + 1)
    answer = await browser.post("/ops/distance/drop", data={"entry": "all", "csrf_token": await csrf_token(browser)})
    assert answer.headers["location"] == f"/ops?done=dropped&count={MOST_LETTERS}"
    assert len(await journal.admin.dead_letters("distance")) == 1


async def test_a_program_is_answered_with_json(operator: httpx.AsyncClient, journal: Journal) -> None:
    """It needs no csrf_token: no browser sends a bearer token by itself."""
    [entry, _] = await buried(journal, 2)
    accept = {"accept": "application/json"}
    assert (await operator.post("/ops/distance/replay", data={"entry": entry}, headers=accept)).json() == {
        "replayed": 1
    }
    assert (await operator.post("/ops/distance/drop", data={"entry": "all"}, headers=accept)).json() == {"dropped": 1}
    assert (await operator.post("/ops/distance/drop", data={"entry": entry}, headers=accept)).json() == {"dropped": 0}


async def test_a_replay_that_is_refused_says_why(browser: httpx.AsyncClient, journal: Journal, redis: Redis) -> None:
    [entry] = await buried(journal)
    form = {"entry": entry, "csrf_token": await csrf_token(browser)}
    await redis.hdel(keys.STAGES, "distance")
    answer = await browser.post("/ops/distance/replay", data=form)
    assert answer.status_code == 409
    assert "no bridge serves distance on raw_input" in answer.text
    assert len(await journal.admin.dead_letters("distance")) == 1
    plain = await browser.post("/ops/distance/replay", data=form, headers={"accept": "application/json"})
    assert plain.headers["content-type"] == "application/problem+json"


async def test_letter_of_a_channel_that_is_not_served_holds_back_no_other(
    operator: httpx.AsyncClient, journal: Journal, redis: Redis
) -> None:
    await redis.xadd(keys.dead("distance"), {"event": "{}", "channel": "gone"}, id="1-1")
    await buried(journal, 2)
    accept = {"accept": "application/json"}
    answer = await operator.post("/ops/distance/replay", data={"entry": "all"}, headers=accept)
    assert answer.json() == {"replayed": 2}
    assert [letter.entry for letter in await journal.admin.dead_letters("distance")] == ["1-1"]
    assert (await operator.post("/ops/distance/replay", data={"entry": "all"}, headers=accept)).status_code == 409


async def test_unreadable_message_cannot_be_replayed(browser: httpx.AsyncClient, journal: Journal) -> None:
    await buried(journal)
    answer = await browser.post("/ops/bridge/replay", data={"entry": "1-0", "csrf_token": await csrf_token(browser)})
    assert answer.status_code == 409
    assert "cannot be replayed" in answer.text


@pytest.mark.parametrize("change", [{"csrf_token": ""}, {"csrf_token": "0" * 64}, {"csrf_token": "ü"}])
async def test_a_form_of_another_site_does_nothing(
    browser: httpx.AsyncClient, journal: Journal, change: dict[str, str]
) -> None:
    """A browser sends the password along with it all the same."""
    [entry] = await buried(journal)
    answer = await browser.post(
        "/ops/distance/drop", data={"entry": entry, "csrf_token": await csrf_token(browser)} | change
    )
    assert answer.status_code == 403
    assert len(await journal.admin.dead_letters("distance")) == 1


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_nor_does_one_that_the_browser_says_came_from_elsewhere(
    browser: httpx.AsyncClient, journal: Journal, site: str
) -> None:
    [entry] = await buried(journal)
    form = {"entry": entry, "csrf_token": await csrf_token(browser)}
    answer = await browser.post("/ops/distance/drop", data=form, headers={"sec-fetch-site": site})
    assert answer.status_code == 403
    assert len(await journal.admin.dead_letters("distance")) == 1


@pytest.mark.parametrize("entry", ["", "x", "-", "+", "(1-0", "1-0 2-0", "all ", "18446744073709551616-0", "\u0661-0"])
async def test_an_entry_that_is_none_is_refused(operator: httpx.AsyncClient, journal: Journal, entry: str) -> None:
    await buried(journal)
    assert (await operator.post("/ops/distance/drop", data={"entry": entry})).status_code == 422
    assert len(await journal.admin.dead_letters("distance")) == 1


@pytest.mark.parametrize("query", ["done=eaten&count=1", "done=dropped&count=<b>", "done=dropped", "count=1"])
async def test_the_address_puts_no_words_into_the_page(operator: httpx.AsyncClient, query: str) -> None:
    page = Tags((await operator.get(f"/ops?{query}")).text)
    assert not [tag for tag, attributes in page.tags if "notice" in (attributes.get("class") or "")]
