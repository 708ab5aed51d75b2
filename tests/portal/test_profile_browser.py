"""Passkeys and the account page in real Chromium, with its virtual authenticator (WebAuthn over CDP)."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

import pytest
from playwright.async_api import Browser, Page, expect

from server.http.page_texts import text
from tests.portal.sign_in.test_step_up import question
from tests.portal.test_portal_accessible import violations_in_both_schemes
from tests.support.harness import PASSWORD
from tests.support.rooms.portal_room import Room, running_room
from vault import users
from vault.approvals import approvals
from vault.records import ApprovalState
from vault.sign_in import passkeys

pytestmark = [pytest.mark.group("browser"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
async def room(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    del browser  # requested first, so that nothing is started if the tests are skipped
    overrides = {"sign_in": {"passkey_for": ["destructive_tools"]}}
    async with running_room(tmp_path_factory.mktemp("profile-browser"), overrides=overrides) as opened:
        yield opened


async def _device(page: Page, *, verifies: bool = True) -> None:
    """Give the tab a phone-like authenticator with a person present; `verifies`: the person also uses a fingerprint."""
    session = await page.context.new_cdp_session(page)
    await session.send("WebAuthn.enable")
    await session.send(
        "WebAuthn.addVirtualAuthenticator",
        {
            "options": {
                "protocol": "ctap2",
                "transport": "internal",
                "hasResidentKey": True,
                "hasUserVerification": True,
                "isUserVerified": verifies,
                "automaticPresenceSimulation": True,
            }
        },
    )


async def _sign_in(page: Page, name: str) -> None:
    await page.get_by_label("User name").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in", exact=True).click()


async def test_a_passkey_is_added_used_renamed_and_removed(room: Room, page: Page) -> None:
    user = await room.user()
    await _device(page)
    await page.goto(f"{room.url}/account")
    await _sign_in(page, user.name)
    await page.get_by_label("Name of the new passkey").fill("Test phone")
    await page.get_by_role("button", name="Add a passkey").click()
    await expect(page.get_by_role("status")).to_contain_text("Passkey added")
    await page.get_by_role("button", name="Sign out", exact=True).click()
    await page.goto(f"{room.url}/sign-in?return_to=/account")
    await page.get_by_role("button", name="Sign in with a passkey").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(user.name)
    await expect(page.get_by_text("Test phone").first).to_be_visible()
    await page.locator("summary", has_text="Change Test phone").click()
    await page.get_by_label("Name", exact=True).fill("Old phone")
    await page.get_by_role("button", name="Rename").click()
    await expect(page.get_by_text("Old phone").first).to_be_visible()
    await page.get_by_role("button", name="Add a passkey").click()
    await expect(page.get_by_role("alert")).to_have_text("This device already has a passkey for this account.")
    await page.locator("summary", has_text="Change Old phone").click()
    await page.get_by_role("button", name="Remove Old phone").click()
    await expect(page.get_by_role("status")).to_contain_text("Passkey removed")
    assert await passkeys.list_passkeys(room.deployment.database, user.id) == ()


async def test_a_device_that_verifies_nobody_is_no_way_in(room: Room, page: Page) -> None:
    user = await room.user()
    await _device(page, verifies=False)
    await page.goto(f"{room.url}/account")
    await _sign_in(page, user.name)
    await page.get_by_role("button", name="Add a passkey").click()
    await expect(page.get_by_role("alert")).to_contain_text("No passkey was used")
    assert await passkeys.list_passkeys(room.deployment.database, user.id) == ()


async def test_an_approval_is_confirmed_by_keyboard_on_a_phone(room: Room, browser: Browser) -> None:
    """From the question to a new passkey, back, and later with a confirmation; no mouse, no sideways scrolling."""
    user = await room.user()
    context = await browser.new_context(viewport={"width": 390, "height": 844})
    try:
        page = await context.new_page()
        await _device(page)
        asked = await question(room, user, "calendar_delete")
        await page.goto(f"{room.url}/approvals/{asked.id}")
        await _sign_in(page, user.name)
        await page.get_by_role("button", name="Approve once").press("Enter")
        await page.get_by_role("link", name="Add a passkey").press("Enter")
        await expect(page.get_by_text(text("profile.then_back"))).to_be_visible()
        await page.get_by_role("button", name="Add a passkey").press("Enter")
        await page.wait_for_url(f"**/approvals/{asked.id}")
        await page.get_by_role("button", name="Approve once").press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Approved")
        room.deployment.database.clock_offset += 901
        later = await question(room, user, "calendar_delete")
        await page.goto(f"{room.url}/approvals/{later.id}")
        await page.get_by_role("button", name="Approve once").press("Enter")
        await page.get_by_role("link", name="Use your passkey").press("Enter")
        await expect(page.get_by_label("Password")).to_have_count(0)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.get_by_role("button", name="Use your passkey").press("Enter")
        await page.wait_for_url(f"**/approvals/{later.id}")
        await page.get_by_role("button", name="Approve once").press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Approved")
    finally:
        await context.close()
    found = await approvals.get(room.deployment.database, room.deployment.keys, later.id)
    assert found is not None
    assert found.state is ApprovalState.APPROVED


async def test_without_javascript_there_is_the_password_and_a_word_about_passkeys(room: Room, browser: Browser) -> None:
    user = await room.user()
    context = await browser.new_context(java_script_enabled=False)
    try:
        page = await context.new_page()
        await page.goto(f"{room.url}/account")
        await expect(page.get_by_role("button", name="Sign in with a passkey")).to_have_count(0)
        await _sign_in(page, user.name)
        await expect(page.get_by_text("Adding a passkey needs JavaScript")).to_be_visible()
        await expect(page.get_by_role("button", name="Add a passkey")).to_have_count(0)
        await page.get_by_role("link", name="Change password").click()
        await expect(page.get_by_label("Current password")).to_be_visible()
    finally:
        await context.close()


async def test_a_person_deletes_their_account_on_the_page(room: Room, page: Page) -> None:
    user = await room.user()
    await page.goto(f"{room.url}/account")
    await _sign_in(page, user.name)
    await page.get_by_role("link", name="Delete", exact=True).click()
    await page.get_by_label(re.compile("enter your user name")).fill(user.name)
    await page.get_by_role("button", name="Delete my account").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Your account is deleted")
    await page.goto(f"{room.url}/account")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert await users.get_user(room.deployment.database, user.id) is None


async def test_the_pages_keep_nobody_out_and_fit_a_phone(room: Room, browser: Browser) -> None:
    user = await room.user()
    context = await browser.new_context(viewport={"width": 390, "height": 844})
    found: dict[str, list[str]] = {}
    try:
        page = await context.new_page()
        await _device(page)
        await page.goto(f"{room.url}/account")
        await _sign_in(page, user.name)
        await page.get_by_role("button", name="Add a passkey").click()
        await page.locator("summary", has_text="Change").click()
        for path in ("", "/account/password", "/account/delete", "/sign-in?again=1&need=passkey&return_to=/"):
            if path:
                await page.goto(f"{room.url}{path}")
            found[path] = await violations_in_both_schemes(page)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        room.deployment.database.clock_offset += 901
        await page.goto(f"{room.url}/account/delete")
        found["refused"] = await violations_in_both_schemes(page)
    finally:
        await context.close()
    assert {path: what for path, what in found.items() if what} == {}
