"""Administration and the first steps in real Chromium: by keyboard, on a phone, without scripts, and accessibly."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from playwright.async_api import Browser, BrowserContext, Page, ViewportSize, expect

from tests.portal.test_portal_accessible import violations_in_both_schemes
from tests.support.harness import PASSWORD
from tests.support.rooms.portal_room import Room, running_room
from vault.audit import audit
from vault.records import Event

pytestmark = [pytest.mark.group("browser"), pytest.mark.timeout(180)]
PHONE: ViewportSize = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
async def room(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    del browser  # requested first, so that nothing is started if the tests are skipped
    async with running_room(tmp_path_factory.mktemp("admin")) as opened:
        yield opened


async def _signed_in(room: Room, context: BrowserContext, name: str = "alice") -> Page:
    page = await context.new_page()
    await page.goto(f"{room.url}/sign-in")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"{room.url}/")
    return page


async def test_a_provider_is_set_up_with_the_keyboard_alone(room: Room, browser: Browser) -> None:
    context = await browser.new_context()
    await context.grant_permissions(["clipboard-read", "clipboard-write"], origin=room.url)
    page = await _signed_in(room, context)
    await page.get_by_role("link", name="Admin").press("Enter")
    await page.get_by_role("link", name="Providers").press("Enter")
    await page.get_by_label("Find a provider").press_sequentially("github")
    await page.keyboard.press("Enter")
    await page.get_by_role("link", name="GitHub", exact=True).press("Enter")
    await page.get_by_role("button", name="Copy Redirect URL").press("Enter")
    await expect(page.get_by_role("button", name="Copied Redirect URL")).to_be_visible()
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied == f"{room.url}/connect/callback/github"
    await page.get_by_label("Client ID").press_sequentially("1234-abc.apps.googleusercontent.com")
    await page.get_by_label("Client secret").press_sequentially("0123456789abcdef0123456789abcdef01234567")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text(
        "That's a client ID of Google; copy the one of this service's app."
    )
    await page.get_by_label("Client ID").fill("Iv1.0123456789abcdef")
    await expect(page.get_by_label("Client secret")).to_have_value("")  # a refused secret isn't sent back either
    await page.get_by_label("Client secret").press_sequentially("0123456789abcdef0123456789abcdef01234567")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("GitHub is set up.")).to_be_visible()
    assert room.deployment.vault.upstreams["github"].is_configured
    await context.close()


async def test_a_person_is_added_and_comes_in_without_scripts(room: Room, browser: Browser) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await _signed_in(room, context)
    await page.goto(f"{room.url}/administration/people")
    await page.get_by_role("link", name="Add a person").click()
    await page.get_by_label("User name").fill("grace")
    await page.get_by_role("button", name="Add a person").click()
    await expect(page.get_by_text("grace was added.")).to_be_visible()
    link = await page.locator("code.long").first.inner_text()
    await expect(page.get_by_role("button", name="Copy")).to_have_count(0)  # hidden where it can't work
    fresh = await browser.new_context(java_script_enabled=False)
    theirs = await fresh.new_page()
    await theirs.goto(link)
    await theirs.get_by_label("New password", exact=True).fill("a password that is long enough")
    await theirs.get_by_label("Confirm new password").fill("a password that is long enough")
    await theirs.get_by_role("button", name="Sign in").click()
    await expect(theirs.get_by_role("heading", level=1)).to_have_text("Get started")
    await expect(theirs.get_by_role("link", name="Admin")).to_have_count(0)
    await fresh.close()
    await context.close()


async def test_the_name_of_a_setting_is_shown_as_it_is_written(room: Room, browser: Browser) -> None:
    """Other facts begin with a capital letter."""
    page = await _signed_in(room, await browser.new_context())
    case = "name => getComputedStyle(name, '::first-letter').textTransform"
    await page.goto(f"{room.url}/administration/settings")
    assert await page.locator(".facts dt").first.evaluate(case) == "none"
    await page.goto(f"{room.url}/administration/activity")
    assert await page.locator(".facts dt").first.evaluate(case) == "uppercase"
    await page.context.close()


async def test_the_tab_of_the_open_page_is_in_sight_on_a_phone(room: Room, browser: Browser) -> None:
    page = await _signed_in(room, await browser.new_context(viewport=PHONE))
    tabs = page.locator(".tabs")
    for path, name in (("", "Overview"), ("/keys", "Keys"), ("/tools/servers", "Tools"), ("/activity", "Activity")):
        await page.goto(f"{room.url}/administration{path}")
        row, tab = await tabs.bounding_box(), await tabs.get_by_role("link", name=name, exact=True).bounding_box()
        assert row is not None
        assert tab is not None
        assert row["x"] <= tab["x"], path
        assert tab["x"] + tab["width"] <= row["x"] + row["width"] + 1, path
        assert await page.evaluate("[scrollX, scrollY]") == [0, 0]
    await page.context.close()


async def test_the_first_call_appears_by_itself(room: Room, browser: Browser) -> None:
    context = await browser.new_context()
    user = await room.user("henry")
    page = await _signed_in(room, context, "henry")
    await page.get_by_role("link", name="Get started").click()
    await expect(page.get_by_role("link", name="Check again")).to_be_visible()
    async with room.deployment.transaction() as transaction:
        event = Event("tool.called", user_id=user.id, client_id="agent", details={"tool": "slack_post"})
        await audit.append(transaction, event, now=room.deployment.now())
    await expect(page.get_by_text("The first call arrived.")).to_be_visible(timeout=30_000)
    await context.close()


async def test_administration_keeps_nobody_out_and_fits_a_phone(room: Room, browser: Browser) -> None:
    client, person = await room.agent(name="Claude Code"), await room.user("alice")
    paths = (
        "",
        "/providers",
        "/providers/slack",
        "/providers/google",
        "/providers/salesforce",
        "/people",
        "/people/new",
        f"/people/{person.id}",
        f"/people/{person.id}/connect",
        f"/people/{person.id}/connect/resend",
        "/agents",
        f"/agents/{client.id}",
        f"/agents/{client.id}/cut-off",
        "/settings",
        "/activity",
    )
    context = await browser.new_context(viewport=PHONE)
    page = await _signed_in(room, context)
    await page.goto(f"{room.url}/administration/providers/resend")
    await page.get_by_role("button", name="Turn on").click()
    found: dict[str, object] = {}
    for path in (*(f"/administration{one}" for one in paths), "/first-run"):
        await page.goto(f"{room.url}{path}")
        wide = await page.evaluate("document.documentElement.scrollWidth")
        too_wide = [f"{wide} pixels wide"] if wide > PHONE["width"] else []
        found[path] = [*await violations_in_both_schemes(page), *too_wide]
    await context.close()
    assert {path: what for path, what in found.items() if what} == {}
