"""The pages as axe-core sees them: names, labels, headings, landmarks, contrast; in both color schemes, on a phone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page

from server.administration import access_requests, groups
from server.administration.access_requests import AccessInput
from server.administration.actor import Actor
from tests.conftest import unavailable
from tests.support.foreign.foreign import MODULES
from tests.support.harness import PASSWORD
from tests.support.rooms.portal_room import Room, running_room
from vault import connections

pytestmark = [pytest.mark.group("browser"), pytest.mark.timeout(120)]
_RUN = """rules => axe.run(document, {resultTypes: ['violations'], ...(rules ? {runOnly: rules} : {})}).then(
  found => found.violations.map(one => one.id + ': ' + one.nodes.map(node => node.target.join(' ')).join(', ')))"""
_RULES_OF_COLORS = ["color-contrast", "link-in-text-block"]


@pytest.fixture(scope="module")
async def room(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    del browser  # requested first, so that nothing is started if the tests are skipped
    overrides = {"access_requests": {"groups": ["Sales"]}}
    async with running_room(tmp_path_factory.mktemp("accessible"), overrides=overrides) as opened:
        await groups.create(Actor(opened.deployment, None, "command_line"), "Sales")
        yield opened


async def violations(page: Page) -> list[str]:
    """What axe-core reports about the open page."""
    script = MODULES / "axe-core" / "axe.min.js"
    if not script.exists():
        unavailable("looking at pages for people who cannot see them needs: make node")
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(script.read_text(encoding="utf-8"))
    found: list[str] = await page.evaluate(_RUN)
    return found


async def violations_in_both_schemes(page: Page) -> list[str]:
    """What axe-core reports in light colors, and about the dark colors; the schemes differ in nothing else."""
    found = await violations(page)
    await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    dark: list[str] = await page.evaluate(_RUN, _RULES_OF_COLORS)
    await page.emulate_media(color_scheme="light", reduced_motion="reduce")
    return [*found, *(f"dark: {one}" for one in dark)]


async def test_no_page_keeps_anybody_out(room: Room, browser: Browser) -> None:
    user, client = await room.user(), await room.agent(name="Claude Code")
    await room.connect(await room.signed_in(user), user, client)
    (connection,) = await connections.list_connections(room.deployment.database, user.id)
    link = await room.link(user, client, provider="google", scopes=frozenset({"openid"}))
    asking = AccessInput(group="Sales", reason="cover for bob", days=3)
    request, _ = await access_requests.ask(room.deployment, user, asking)
    own = (
        "",
        "connections",
        "agents",
        "approvals",
        "access-requests",
        "access-requests/new?group=Sales",
        f"access-requests/{request.id}",
        "activity",
        "account",
        "notifications",
        "device",
        "first-run",
        "no-such-page",
    )
    paths = (
        *(f"/{name}" for name in (*own, "no-such-page")),
        "/connections/connect?provider=google",
        f"/agents/{client.id}",
        f"/connections/{connection.id}",
        f"/agents/{client.id}/cut-off",
        "/connect/callback/slack?error=access_denied&state=nobody's",
        room.authorize_path(client),
        room.authorize_path(client, redirect_uri="https://elsewhere.example/"),
        link.url.removeprefix(room.url),
    )
    context = await browser.new_context(viewport={"width": 390, "height": 844})
    try:
        page = await context.new_page()
        await page.goto(f"{room.url}/connections")
        found = {"/sign-in": await violations_in_both_schemes(page)}
        await page.get_by_label("Name").fill(user.name)
        await page.get_by_label("Password").fill("another password that is wrong")
        await page.get_by_role("button", name="Sign in", exact=True).click()
        found["/sign-in, refused"] = await violations_in_both_schemes(page)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in", exact=True).click()
        for path in paths:
            await page.goto(f"{room.url}{path}")
            found[path] = await violations_in_both_schemes(page)
    finally:
        await context.close()
    assert {path: what for path, what in found.items() if what} == {}


async def test_a_page_that_keeps_somebody_out_is_seen(browser: Browser) -> None:
    """The twin: the test above finds what it looks for."""
    page = await browser.new_page()
    await page.set_content("<input name='secret'><p style='color:#aaa;background:#fff'>hardly there</p>")
    found = {one.partition(":")[0] for one in await violations(page)}
    assert {"label", "color-contrast", "html-has-lang", "document-title", "landmark-one-main"} <= found
    dark = "<style>@media (prefers-color-scheme: dark) { p { color: #333; background: #222 } }</style>"
    await page.set_content(f"{dark}<p style='font: 16px serif'>there by day</p>")
    assert not any("color-contrast" in one for one in await violations(page))
    assert "dark: color-contrast: p" in await violations_in_both_schemes(page)
    await page.close()


async def test_the_page_of_a_vault_without_an_admin_keeps_nobody_out(browser: Browser, tmp_path: Path) -> None:
    async with running_room(tmp_path) as empty:
        async with empty.deployment.transaction() as transaction:
            await transaction.execute("update users set is_admin = 0")
        page = await browser.new_page()
        await page.goto(f"{empty.url}/first-run")
        assert await page.get_by_label("One-time secret").is_visible()
        assert await violations(page) == []
        await page.close()
