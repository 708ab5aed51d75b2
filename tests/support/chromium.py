"""The system's Chromium for tests that need a real browser; skips if it isn't installed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, async_playwright, expect

from tests.conftest import unavailable

CHROMIUM = Path("/usr/bin/chromium")
PAGE_PATIENCE = 30_000  # milliseconds for what a page is about to show
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


@asynccontextmanager
async def running_chromium() -> AsyncGenerator[Browser]:
    """A headless browser until the block ends."""
    if not CHROMIUM.exists():
        unavailable("browser tests need Chromium: apt-get install -y chromium")
    expect.set_options(timeout=PAGE_PATIENCE)
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        await started.close()
