"""A key file in real Chromium: chosen instead of pasted, it is read into its field and sent like any other key."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.credentials.test_signed_tokens import key_file
from tests.support.harness import PASSWORD
from tests.support.rooms.key_room import KeyRoom, running_key_room
from tests.support.rooms.portal_room import accounts_of

pytestmark = [pytest.mark.group("browser"), pytest.mark.timeout(120)]

# As OpenSSL writes it, with what PKCS#12 calls the key, and with the byte order mark that some editors add.
NOTED = "\ufefffriendlyName: Müller\n-----BEGIN C-----\nAA==\n-----END C-----\n".encode()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def room(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[KeyRoom]:
    del browser
    async with running_key_room(tmp_path_factory.mktemp("keys")) as opened:
        yield opened


async def test_a_key_file_is_chosen_read_and_sent(room: KeyRoom, browser: Browser) -> None:
    user = await room.user()
    content = key_file(room, user)
    context = await browser.new_context()
    page = await context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(error.message))
    await page.goto(f"{room.url}/connections/connect?provider=mailroom-service")
    await page.get_by_label("Name").fill(user.name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await page.get_by_role("button", name="Enter: Service account key").click()
    field, choice = page.locator("#field-key_file"), page.locator("[data-fills=field-key_file] input")
    for name, raw, shown in (
        ("one.pem", b"-----BEGIN A-----\n", "-----BEGIN A-----\n"),
        ("two.pem", b"-----BEGIN B-----\n", "-----BEGIN A-----\n-----BEGIN B-----\n"),  # the key after its certificate
        ("noted.pem", NOTED, "-----BEGIN A-----\n-----BEGIN B-----\n-----BEGIN C-----\nAA==\n-----END C-----\n"),
        ("binary.p12", b"\x30\x82\x00\xff", "MIIA/w=="),
        ("key.json", content.encode(), content),
    ):
        await choice.set_input_files({"name": name, "mimeType": "application/octet-stream", "buffer": raw})
        await expect(field).to_have_value(shown)
    await choice.evaluate("one => { one.value = ''; one.dispatchEvent(new Event('change', { bubbles: true })) }")
    await page.get_by_role("button", name="Connect", exact=True).click()
    await page.wait_for_url("**/connect/done/**")
    [connected] = await accounts_of(room, user)
    assert connected.account == f"{user.name}@mailroom.example"
    assert faults == []
    await context.close()
