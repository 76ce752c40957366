"""A real browser at the dashboard: Debian's Chromium, driven by Playwright, on the network of the box."""

import site
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from system.conftest import Box, box, configs_removed, tenant
from system.web import Token, token

__all__ = ["box", "configs_removed", "tenant"]

DRIVERS = Path("/opt/browser/lib/python3.13/site-packages")
CHROMIUM = "/usr/bin/chromium"
BASE = "http://localhost"
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """The browser, started once."""
    if not DRIVERS.is_dir():
        pytest.skip("the browser is in another layer: make test")
    site.addsitedir(str(DRIVERS))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The sandbox of Chromium needs namespaces that a chroot does not have; pages are our own.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def admin(box: Box) -> Iterator[Token]:
    """An administrator's token."""
    with token(box, "--name", "browser") as made:
        yield made


@pytest.fixture
def visitor(chromium: Any) -> Iterator[Any]:
    """A page that nobody has logged in on. It fails the test if a script failed or a policy was broken."""
    context = chromium.new_context(base_url=BASE, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(10_000)
    page = context.new_page()
    faults: list[str] = []
    requests: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None
    )
    page.on("request", lambda request: requests.append(request.url))
    yield page
    context.close()
    assert faults == []
    assert [url for url in requests if not url.startswith(BASE + "/")] == []


@pytest.fixture
def page(visitor: Any, admin: Token) -> Any:
    """A page of somebody who has logged in."""
    visitor.goto("/login")
    visitor.fill("#token", admin.text)
    visitor.click("button.primary")
    visitor.wait_for_url(BASE + "/")
    return visitor
