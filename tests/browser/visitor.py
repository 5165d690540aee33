"""A visitor's browser: Debian's Chromium, driven by Playwright, on a pipeline that really runs."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, Response, expect
from redis import Redis

from milepost.journal import keys

CHROMIUM = Path("/usr/bin/chromium")

FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"]
"""A container lets Chromium make no sandbox of its own and gives it little shared memory."""

EMAIL, LAT, LONG = "ada@example.org", "51.5074", "-0.1278"
MESSAGE = "You are 2216.0742916592476 miles from Velocity."
PHONE = {"width": 360, "height": 740}

WITHIN = 180_000
"""Milliseconds that Playwright waits for an expected state; generous, for a machine that runs other tests too."""

expect.set_options(timeout=WITHIN)


def launch(playwright: Playwright) -> Browser:
    return playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


class Visitors:
    """Makes visitors, and notes acts that no visitor's browser should ever do."""

    def __init__(self, browser: Browser, home: str) -> None:
        self._browser = browser
        self.home = home
        self.contexts: list[BrowserContext] = []
        self.complaints: list[str] = []
        self.expected: tuple[str, ...] = ()
        """Parts of console errors that a test provokes."""

    def __call__(self, **options: Any) -> Page:
        """A new visitor, at the form."""
        context = self._browser.new_context(base_url=self.home, **options)
        self.contexts.append(context)
        context.set_default_timeout(WITHIN)
        page = context.new_page()
        page.on("console", lambda message: self._complain(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda fault: self.complaints.append(str(fault)))
        page.on("response", self._look_at)
        page.goto("/")
        return page

    def leave(self) -> None:
        for context in self.contexts:
            context.close()

    def _complain(self, text: str) -> None:
        if not any(part in text for part in self.expected):
            self.complaints.append(text)

    def _look_at(self, response: Response) -> None:
        if not response.url.startswith(self.home):
            self.complaints.append(f"external request: {response.url}")


def fill(page: Page, email: str = EMAIL, lat: str = LAT, long: str = LONG) -> None:
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Latitude").fill(lat)
    page.get_by_label("Longitude").fill(long)


def submit(page: Page) -> None:
    page.get_by_role("button", name="Measure the distance").click()


def wait_for_state(page: Page, state: str) -> None:
    page.locator(f'#submission[data-state="{state}"]').wait_for()


def reached(page: Page) -> list[str]:
    """The channels of this repository's own stages that the page shows as reached, in its order."""
    own = {"raw_input", "calculated_distance", "user:email", "email:sent"}
    found = [str(item.get_attribute("data-channel")) for item in page.locator(".steps .reached").all()]
    return [channel for channel in found if channel in own]


def consumers(stack: dict[str, Any], channel: str) -> set[str]:
    """The stages that consume a channel, as the bridges' table says."""
    with Redis.from_url(stack["redis"]) as redis:
        table = redis.hgetall(keys.STAGES)
    return {name.decode() for name, row in table.items() if channel in json.loads(row)["consumes"]}


AT_REST = """Promise.all(
    document.getAnimations()
        .filter(one => one.effect.getComputedTiming().endTime < Infinity)
        .map(one => one.finished.catch(() => null)))"""
"""Ends with the last animation that ends: half faded in, a text has too little contrast."""


def assert_accessible(page: Page) -> None:
    """axe-core finds nothing, and nothing has to be scrolled for sideways."""
    page.evaluate(f"{AT_REST}.then(() => null)")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@contextmanager
def held(stack: dict[str, Any], stage: str) -> Iterator[None]:
    """The stage's function is frozen: its requests stay under way."""
    pid = int(stack["pids"][stage])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
