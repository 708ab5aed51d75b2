"""A vault per module and one browser for the tests of pages; each test gets a tab of a fresh profile."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from playwright.async_api import Browser, BrowserContext, Page

from tests.support.chromium import PAGE_PATIENCE, running_chromium
from tests.support.rooms.portal_room import Room, running_room


@pytest.fixture(scope="module")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    async with running_room(tmp_path_factory.mktemp("portal")) as opened:
        yield opened


@pytest.fixture(scope="session")
async def browser() -> AsyncGenerator[Browser]:
    async with running_chromium() as started:
        yield started


@pytest.fixture
async def context(browser: Browser) -> AsyncGenerator[BrowserContext]:
    """A fresh profile."""
    opened = await browser.new_context()
    opened.set_default_timeout(PAGE_PATIENCE)
    yield opened
    await opened.close()


@pytest.fixture
async def page(context: BrowserContext) -> AsyncGenerator[Page]:
    """A tab that fails the test if the page violates its own policy."""
    tab = await context.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text) if "Security Policy" in message.text else None)
    yield tab
    assert complaints == []
