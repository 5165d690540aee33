"""The page as a visitor has it."""

import os
import re
import signal
from uuid import uuid4

import pytest
from playwright.sync_api import expect
from redis import Redis

from gateway import world_map
from milepost.events.event import Event
from milepost.events.payload import number
from milepost.journal import keys
from tests.browser.visitor import (
    EMAIL,
    LAT,
    LONG,
    MESSAGE,
    PHONE,
    Visitors,
    assert_accessible,
    consumers,
    fill,
    held,
    reached,
    submit,
    wait_for_state,
)
from tests.cli.running import Up
from tests.servers import wait_for

CHANNELS = ["raw_input", "calculated_distance", "user:email", "email:sent"]
TIME = re.compile(r"\d+ ms|\d+\.\d s|\d+ min \d+ s")
REFUSED = ("status of 422",)
CLOUDEVENT = "application/cloudevents+json"
NO_CONNECTION = (
    "ERR_INTERNET_DISCONNECTED",
    "ERR_CONNECTION_REFUSED",
    "ERR_INCOMPLETE_CHUNKED_ENCODING",
    # Where the request was, or the page asked anew, just when the connection went.
    "ERR_CONNECTION_RESET",
    "ERR_EMPTY_RESPONSE",
    "ERR_NETWORK_CHANGED",
)


def test_a_visitor_watches_their_event_from_channel_to_channel(visitor: Visitors, up: Up) -> None:
    page = visitor()
    fill(page)
    with held(up.stack, "store"):
        submit(page)
        page.get_by_role("heading", level=1, name="Your place is on its way").wait_for()
        expect(page.locator(".steps .next")).to_contain_text("user:email")
        assert reached(page) == CHANNELS[:2]
        assert page.locator(".steps [aria-current=step]").get_attribute("data-channel") == "user:email"
        assert "/submissions/" in page.url
        with Redis.from_url(up.stack["redis"]) as redis:
            redis.set(keys.starting("store"), "", ex=600)
            expect(page.locator(".steps .next .took")).to_have_text(re.compile(r"starting · \d"))
            expect(page.locator("#announced")).to_have_text("store is starting")
            redis.delete(keys.starting("store"))
        expect(page.locator(".steps .next .took")).to_have_text(TIME)
    wait_for_state(page, "done")
    assert page.locator("[aria-current=step]").count() == 0
    assert reached(page) == CHANNELS
    for took in page.locator(".steps .took").all_text_contents()[1:]:
        assert TIME.fullmatch(took)
    expect(page.locator(".answer")).to_contain_text(MESSAGE)
    expect(page.locator(".answer")).to_contain_text("2,216")
    assert page.title().startswith("Your answer is sent")
    assert page.locator("#announced").inner_text() == MESSAGE, "told to a screen reader"


def test_a_reload_in_the_middle_picks_up(visitor: Visitors, up: Up) -> None:
    page = visitor()
    fill(page)
    with held(up.stack, "store"):
        submit(page)
        expect(page.locator(".steps .next")).to_contain_text("user:email")
        page.reload()
        assert reached(page) == CHANNELS[:2]
        wait_for_state(page, "underway")
    wait_for_state(page, "done")
    page.reload()
    expect(page.locator(".answer")).to_contain_text(MESSAGE)
    assert reached(page) == CHANNELS


def test_off_line_and_back_resumes(visitor: Visitors, up: Up) -> None:
    visitor.expected = NO_CONNECTION
    page = visitor()
    fill(page)
    with held(up.stack, "store"):
        submit(page)
        expect(page.locator(".steps .next")).to_contain_text("user:email")
        page.context.set_offline(True)
        expect(page.locator("#link")).to_contain_text("offline")
    page.context.set_offline(False)
    wait_for_state(page, "done")
    assert reached(page) == CHANNELS
    expect(page.locator("#link")).to_be_empty()


def test_a_gateway_that_is_started_anew_is_found_again(visitor: Visitors, up: Up) -> None:
    visitor.expected = NO_CONNECTION
    page = visitor()
    fill(page)
    with held(up.stack, "store"):
        submit(page)
        expect(page.locator(".steps .next")).to_contain_text("user:email")
        before = up.pids["gateway"]
        os.kill(before, signal.SIGKILL)
        up.wait_for(lambda: up.pids.get("gateway", before) != before, what="the gateway runs again")
    wait_for_state(page, "done")
    assert reached(page) == CHANNELS


def test_back_leads_to_the_form(visitor: Visitors) -> None:
    page = visitor()
    fill(page)
    submit(page)
    wait_for_state(page, "done")
    page.go_back()
    page.get_by_role("heading", level=1, name="How far are you from Velocity?").wait_for()
    page.go_forward()
    expect(page.locator(".answer")).to_contain_text(MESSAGE)


def test_errors_stand_beside_their_fields_and_the_typed_text_stays(visitor: Visitors) -> None:
    visitor.expected = REFUSED
    page = visitor()
    fill(page, email="nobody", lat="95")
    submit(page)
    expect(page.locator("#email-fault")).to_contain_text("E-mail must have an @-sign")
    expect(page.locator("#lat-fault")).to_contain_text("must be at most 90")
    assert page.locator("#long-fault").count() == 0
    expect(page.get_by_label("E-mail")).to_have_value("nobody")
    expect(page.get_by_label("Latitude")).to_have_value("95")
    expect(page.get_by_label("Longitude")).to_have_value(LONG)
    expect(page.get_by_label("E-mail")).to_be_focused()
    assert page.title().startswith("Error: ")
    fill(page)
    submit(page)
    wait_for_state(page, "done")


def test_without_a_connection_the_form_is_kept_and_counts_once(visitor: Visitors) -> None:
    visitor.expected = NO_CONNECTION
    page = visitor()
    fill(page)
    page.context.set_offline(True)
    submit(page)
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    expect(page.get_by_label("E-mail")).to_have_value(EMAIL)
    page.context.set_offline(False)
    submit(page)
    wait_for_state(page, "done")


def test_a_gateway_that_cannot_publish_says_so_and_keeps_the_form(visitor: Visitors, up: Up) -> None:
    visitor.expected = ("status of 503",)
    page = visitor()
    fill(page)
    os.kill(up.pids["redis"], signal.SIGSTOP)
    try:
        submit(page)
        expect(page.get_by_role("alert")).to_contain_text("does not answer")
        expect(page.get_by_label("E-mail")).to_have_value(EMAIL)
    finally:
        os.kill(up.pids["redis"], signal.SIGCONT)
    submit(page)
    wait_for_state(page, "done")


def test_without_javascript(visitor: Visitors, up: Up) -> None:
    page = visitor(java_script_enabled=False)
    assert page.locator("#locate").is_hidden()
    fill(page, lat="95")
    visitor.expected = REFUSED
    submit(page)
    expect(page.locator("#lat-fault")).to_contain_text("must be at most 90")
    fill(page)
    with held(up.stack, "store"):
        submit(page)
        wait_for_state(page, "underway")
        page.wait_for_load_state()
        assert reached(page)[:1] == CHANNELS[:1]
        assert page.locator("#point .pin").get_attribute("cx") == f"{world_map.locate(float(LAT), float(LONG)).x:.1f}"
    look_again = page.get_by_role("link", name="Check progress")

    def is_done() -> bool:
        look_again.click()
        return page.locator("#submission").get_attribute("data-state") == "done"

    wait_for(is_done, what="the page, asked for anew, says that it is done")
    page.wait_for_load_state()
    assert reached(page) == CHANNELS
    expect(page.locator(".answer")).to_contain_text(MESSAGE)


def test_two_visitors_do_not_see_each_other(visitor: Visitors, up: Up) -> None:
    one, other = visitor(), visitor()
    with held(up.stack, "store"):
        for page, email, lat in ((one, "one@example.org", "10"), (other, "other@example.org", "20")):
            fill(page, email=email, lat=lat)
            submit(page)
            expect(page.locator(".steps .next")).to_contain_text("user:email")
    for page in (one, other):
        wait_for_state(page, "done")
    for page, mine, theirs in ((one, "one@", "other@"), (other, "other@", "one@")):
        text = page.locator("body").inner_text()
        assert mine in text
        assert theirs not in text
    assert one.locator("#message").inner_text() != other.locator("#message").inner_text()


def test_parts_of_a_submission_are_counted_and_linked(visitor: Visitors, up: Up) -> None:
    event_id = str(uuid4())
    page = visitor()
    with Redis.from_url(up.stack["redis"]) as redis:
        redis.hset(keys.status(event_id), "raw_input", '{"at":1,"data":null}')
        page.goto(f"/submissions/{event_id}")
        for place in range(2):
            redis.hset(keys.status(f"{event_id}/{place}"), "calculated_distance", '{"at":2,"data":null}')
        redis.hset(keys.status(event_id), "parts:distance", '{"at":2,"data":{"parts":2}}')
        line = page.locator("[data-split=distance]")
        for ended in range(2):
            expect(line).to_have_text(f"distance: 2 parts, {ended} ended")
            redis.hset(keys.status(f"{event_id}/{ended}"), "email:sent", '{"at":3,"data":null}')
    wait_for_state(page, "done")
    expect(line).to_have_text("distance: 2 parts, 2 ended")
    assert reached(page) == ["raw_input"]
    expect(page.locator(".steps li")).to_have_count(1)
    assert_accessible(page)
    page.get_by_role("link", name="1", exact=True).click()
    expect(page).to_have_url(re.compile(f"/submissions/{event_id}/1$"))
    wait_for_state(page, "done")


def test_page_of_a_submission_without_an_answer_says_so(visitor: Visitors, up: Up) -> None:
    event_id = "0199a3c5-7d1e-7c4a-9f0e-2b5d8c6a4e98"
    page = visitor()
    with Redis.from_url(up.stack["redis"]) as redis:
        redis.hset(keys.status(event_id), "raw_input", '{"at":1,"data":null}')
        page.goto(f"/submissions/{event_id}")
        history = '{"count":1,"steps":[{"did":"delivered","at":2,"times":1}]}'
        redis.hset(keys.status(event_id), f"{keys.HISTORY}distance", history)
    wait_for_state(page, "ended")
    page.get_by_role("heading", level=1, name="It has ended without an answer").wait_for()
    for _ in range(2):
        expect(page.locator("[data-ended=distance]")).to_have_text("distance: no answer")
        expect(page.locator(".steps li")).to_have_count(1)
        assert_accessible(page)
        page.reload()


def test_a_submission_that_is_given_up_says_where_and_why(visitor: Visitors, up: Up) -> None:
    page = visitor()
    dead_letter = "0199a3c5-7d1e-7c4a-9f0e-2b5d8c6a4e99"
    event = Event(id=dead_letter, source="/test", type="raw_input", data={"email": EMAIL, "lat": 91, "long": 0})
    answer = page.request.post(up.stack["bridge"], data=event.to_json(), headers={"content-type": CLOUDEVENT})
    assert answer.status == 202
    page.goto(f"/submissions/{dead_letter}")
    wait_for_state(page, "dead")
    page.get_by_role("heading", level=1, name="This one was given up").wait_for()
    gave_up = page.locator("#gave-up").inner_text()
    assert gave_up in consumers(up.stack, "raw_input"), "whichever of them was first"
    expect(page.locator("#reason")).to_contain_text("422")
    for step in page.locator(f'.steps [data-stage="{gave_up}"]').all():
        expect(step).to_have_class("stopped")
    assert_accessible(page)


PASTED = ("\u200e51.5074\u00a0", "\u202a\u22120.1278\u202c")
"""With a true minus sign, a no-break space and direction marks."""


@pytest.mark.parametrize(
    "place", [("51.5074", "-0.1278"), PASTED, ("-33.9", "18.4"), ("-32", "-145"), ("90", "0"), ("0", "0")]
)
def test_the_map_follows_what_is_typed(visitor: Visitors, place: tuple[str, str]) -> None:
    page = visitor()
    expect(page.locator("#point")).to_be_hidden()
    page.get_by_label("Latitude").type(place[0])
    page.get_by_label("Longitude").type(place[1])
    point = world_map.locate(*map(number, place))
    pin = page.locator("#point .pin")
    assert float(pin.get_attribute("cx") or "nan") == pytest.approx(point.x, abs=0.11)
    assert float(pin.get_attribute("cy") or "nan") == pytest.approx(point.y, abs=0.11)
    expect(page.locator("#bearing")).to_contain_text(f"About {point.miles:,.0f} miles")
    page.get_by_label("Latitude").fill("north")
    expect(page.locator("#point")).to_be_hidden()


def test_use_my_location(visitor: Visitors) -> None:
    page = visitor(geolocation={"latitude": 40.7128, "longitude": -74.006}, permissions=["geolocation"])
    page.get_by_role("button", name="Use my location").click()
    expect(page.get_by_label("Latitude")).to_have_value("40.71280")
    expect(page.get_by_label("Longitude")).to_have_value("-74.00600")
    expect(page.locator("#bearing")).to_contain_text("miles")


def test_a_location_that_is_refused_is_said_so(visitor: Visitors) -> None:
    page = visitor()
    page.get_by_role("button", name="Use my location").click()
    expect(page.locator("#locate [role=status]")).to_contain_text("told not to say")


def test_the_keyboard_is_enough(visitor: Visitors) -> None:
    page = visitor()
    page.get_by_label("E-mail").focus()
    for text in (EMAIL, LAT, LONG):
        page.keyboard.type(text)
        page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Measure the distance")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    wait_for_state(page, "done")


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_every_state_is_accessible(visitor: Visitors, up: Up, look: str) -> None:
    options = {"light": {}, "dark": {"color_scheme": "dark"}, "phone": {"viewport": PHONE}}[look]
    visitor.expected = REFUSED
    page = visitor(reduced_motion="reduce", **options)
    assert_accessible(page)
    fill(page, lat="95")
    submit(page)
    page.locator("#lat-fault").wait_for()
    assert_accessible(page)
    fill(page)
    with held(up.stack, "store"):
        submit(page)
        expect(page.locator(".steps .next")).to_contain_text("user:email")
        assert_accessible(page)
    wait_for_state(page, "done")
    assert_accessible(page)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 150) == (look == "dark")


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
@pytest.mark.parametrize("path", ["/docs", "/channels"])
def test_every_page_is_accessible(visitor: Visitors, look: str, path: str) -> None:
    options = {"light": {}, "dark": {"color_scheme": "dark"}, "phone": {"viewport": PHONE}}[look]
    page = visitor(**options)
    page.get_by_role("navigation", name="Site").locator(f"a[href='{path}']").click()
    expect(page.locator(f"a[href='{path}'][aria-current=page]")).to_be_visible()
    assert_accessible(page)


def test_an_address_with_marks_in_it_stays_text(visitor: Visitors) -> None:
    page = visitor()
    fill(page, email="o'hara&co@example.org")
    submit(page)
    wait_for_state(page, "done")
    expect(page.locator(".answer")).to_contain_text("o'hara&co@example.org")
