"""One pipeline and one browser for all of these tests; where there is no Chromium they are skipped and say so."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.visitor import CHROMIUM, Visitors, launch
from tests.cli.running import Up


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}: apt-get install chromium")
    with Up(tmp_path_factory.mktemp("browser") / "data") as running:
        yield running.ready()
        assert running.end() == 0


@pytest.fixture(scope="module")
def browser(up: Up) -> Iterator[Browser]:
    """Ends with the module: while Playwright runs, no other test can have an event loop."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser: Browser, up: Up) -> Iterator[Visitors]:
    visitors = Visitors(browser, up.stack["gateway"])
    yield visitors
    visitors.leave()
    assert visitors.complaints == []
