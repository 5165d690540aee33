"""/ops as an operator has it, on a pipeline that really runs."""

import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.visitor import EMAIL, PHONE, Visitors, assert_accessible
from tests.cli.running import Up
from tests.servers import ANSWER_WITHIN, Module, wait_for

TOKEN = "correct-horse-battery-staple"
PASSWORD = {"username": "anyone", "password": TOKEN}


@pytest.fixture(scope="module")
def gateway(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    """One more gateway of the pipeline, with a token."""
    env = {"REDIS_URL": up.stack["redis"], "OPS_TOKEN": TOKEN}
    with Module(tmp_path_factory.mktemp("ops"), "gateway", env=env) as process:
        yield process


@pytest.fixture
def operator(browser: Browser, gateway: Module) -> Iterator[Visitors]:
    visitors = Visitors(browser, gateway.url)
    yield visitors
    visitors.leave()
    assert visitors.complaints == []


def opened(operator: Visitors, **options: object) -> Page:
    page = operator(http_credentials=PASSWORD, **options)
    page.goto("/ops")
    return page


def bury(up: Up, event_id: str) -> None:
    """Have `distance` refuse an event."""
    headers = {"ce-specversion": "1.0", "ce-id": event_id, "ce-source": "/tests", "ce-type": "raw_input"}
    httpx.post(
        up.stack["bridge"], headers=headers, json={"email": EMAIL, "lat": 99, "long": 0}, timeout=ANSWER_WITHIN
    ).raise_for_status()


def submit(gateway: Module) -> None:
    httpx.post(
        f"{gateway.url}/distance", json={"email": EMAIL, "lat": 1, "long": 2}, timeout=ANSWER_WITHIN
    ).raise_for_status()


def test_an_operator_sees_what_happens_as_it_happens(operator: Visitors, gateway: Module) -> None:
    page = opened(operator)
    expect(page.locator("#messages-state")).to_have_text(re.compile("Listening"))

    def is_told() -> bool:
        submit(gateway)
        return page.locator("#messages .channel").filter(has_text="raw_input").count() > 0

    wait_for(is_told, what="a message: the page listens a little before its gateway does")
    messages = page.locator("#messages").inner_text()
    assert "a***@example.org" in messages
    assert EMAIL not in page.content()
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=re.compile("^distance")))
    expect(row.locator("td[data-name=p50]")).not_to_have_text("0")
    expect(row.locator("td[data-name=p50]")).to_have_text(re.compile(r"\d+ ms|\d+\.\d s"))


def letters_of_distance(page: Page) -> Locator:
    """Its dead letters; the event may be another stage's as well."""
    return page.locator(".letters", has=page.get_by_role("heading", name=re.compile("^distance")))


def test_a_dead_letter_is_dropped_after_a_second_thought(operator: Visitors, up: Up) -> None:
    bury(up, "to-drop")
    page = opened(operator)
    letters = letters_of_distance(page)
    expect(letters).to_contain_text("to-drop")
    assert not letters.get_by_role("button", name="Drop them").is_visible()
    letters.get_by_text("Drop all…").click()
    letters.get_by_role("button", name="Drop them").click()
    expect(page.locator("#notice")).to_have_text(re.compile(r"dead letters? dropped\."))
    expect(letters.get_by_text("to-drop")).to_have_count(0)
    expect(page).to_have_url(re.compile("/ops$"))  # a reload shows the present state


def test_without_javascript_a_replay_is_a_form(operator: Visitors, up: Up) -> None:
    bury(up, "to-replay")
    page = opened(operator, java_script_enabled=False)
    letter = letters_of_distance(page).locator("li").filter(has_text="to-replay")
    expect(letter).not_to_have_count(0)  # the page asks for itself anew, without a script
    letter.get_by_role("button", name="Replay to-replay").click()
    assert "replayed" in page.locator("#notice").inner_text()


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_everybody_can_read_it(operator: Visitors, up: Up, look: str) -> None:
    """axe-core finds nothing, and nothing has to be scrolled for sideways."""
    bury(up, f"seen-{look}")
    page = opened(operator, color_scheme="dark" if look == "dark" else "light", **viewport(look))
    expect(page.locator("#letters")).to_contain_text(f"seen-{look}")
    assert_accessible(page)
    page.get_by_label("The history of one event").fill(f"seen-{look}")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="distance on raw_input")).to_contain_text("buried")
    told = page.locator(".at-stage li > span:not(.small)")
    borders = told.evaluate_all("found => found.map((one) => getComputedStyle(one).borderStyle)")
    assert set(borders) == {"none"}, "text in its line, and no card over it"
    assert_accessible(page)


def viewport(look: str) -> dict[str, object]:
    return {"viewport": PHONE} if look == "phone" else {}


def test_the_password_is_no_use_to_the_page_of_another(operator: Visitors, up: Up) -> None:
    """A form of another site that posts to ours, in a browser that knows the password."""
    bury(up, "kept")
    page = opened(operator)
    expect(page.locator("#letters")).to_contain_text("kept")
    operator.expected = ("status of 403",)
    form = (
        f'<form method=post action="{operator.home}/ops/distance/drop"><input name=entry value=all><button>x</button>'
    )
    page.goto("about:blank")
    page.set_content(form)
    with page.expect_navigation() as navigation:
        page.get_by_role("button").click()
    assert navigation.value.status == 403
    page.goto("/ops")
    expect(page.locator("#letters")).to_contain_text("kept")
