"""`make pictures`: docs/pictures anew, from the page in a real browser on a pipeline that really runs."""

import math
import re
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, expect, sync_playwright

from milepost.events.ids import new_id
from tests.browser.visitor import EMAIL, PHONE, fill, held, launch, submit, wait_for_state
from tests.cli.running import Up
from tests.servers import ROOT

PICTURES = ROOT / "docs" / "pictures"
DESKTOP = {"width": 1120, "height": 800}
TOKEN = "correct-horse-battery-staple"
LOADED = 55.0
"""Seconds for which events come before the operators' page is taken."""

SMALLER = 0.6
"""Pixels of a picture for one of the page: all of them together are 1 MB."""


def visit(browser: Browser, up: Up, look: str) -> None:
    """The page in each of its states."""
    scheme = "dark" if look == "dark" else "light"
    context = browser.new_context(
        base_url=up.stack["gateway"],
        viewport=PHONE if look == "phone" else DESKTOP,
        device_scale_factor=1 if look == "phone" else SMALLER,
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto("/")
    take(page, "idle", look)
    fill(page, lat="95", long="139.65")
    submit(page)
    page.locator("#lat-fault").wait_for()
    take(page, "error", look)
    page.get_by_label("Latitude").fill("35.68")
    with held(up.stack, "store"):
        submit(page)
        expect(page.locator(".steps .next .took")).to_have_text(re.compile(r"\d\.\d s"))
        take(page, "underway", look)
    wait_for_state(page, "done")
    take(page, "done", look)
    context.close()


def operate(browser: Browser, up: Up) -> None:
    """The operators' page, with something to see on it."""
    ours = {"ce-specversion": "1.0", "ce-source": "/pictures", "ce-type": "raw_input"}
    for lat in (95, 96):
        wrong = {"email": EMAIL, "lat": lat, "long": 0}
        httpx.post(up.stack["bridge"], headers=ours | {"ce-id": new_id()}, json=wrong).raise_for_status()
    context = browser.new_context(
        base_url=up.stack["gateway"],
        viewport=DESKTOP,
        device_scale_factor=SMALLER,
        http_credentials={"username": "operator", "password": TOKEN},
    )
    page = context.new_page()
    page.goto("/ops")
    started = time.monotonic()
    while (passed := time.monotonic() - started) < LOADED:
        place = {"email": EMAIL, "lat": 51.5, "long": passed}
        httpx.post(f"{up.stack['gateway']}/distance", json=place).raise_for_status()
        time.sleep(0.02 + 0.08 * abs(math.sin(passed / 6)))
    page.reload()
    expect(page.locator("#messages-state")).to_have_text(re.compile("Listening"))
    for passed in range(2):
        place = {"email": EMAIL, "lat": 51.5, "long": passed}
        httpx.post(f"{up.stack['gateway']}/distance", json=place).raise_for_status()
    expect(page.locator("#messages .channel").filter(has_text="email:sent")).to_have_count(2)
    page.screenshot(path=PICTURES / "ops.png", full_page=True)
    context.close()


def take(page: Page, state: str, look: str) -> None:
    page.screenshot(path=PICTURES / f"{state}-{look}.png", full_page=look != "phone")


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    env = {"OPS_TOKEN": TOKEN}
    with (
        tempfile.TemporaryDirectory() as folder,
        Up(Path(folder) / "data", env=env) as up,
        sync_playwright() as playwright,
    ):
        up.ready()
        browser = launch(playwright)
        for look in ("light", "dark", "phone"):
            visit(browser, up, look)
        operate(browser, up)
        browser.close()
        up.end()


if __name__ == "__main__":
    main()
