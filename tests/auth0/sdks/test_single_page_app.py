"""@auth0/auth0-spa-js, unmodified, in Chromium over TLS: login with PKCE, an API's token, and a linked account."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import Page

from tests.auth0.application import FEDERATED, SECRET
from tests.auth0.tenant import API, Tenant, tenant
from tests.conftest import unavailable
from tests.support.chromium import running_chromium
from tests.support.foreign.foreign import FOLDER
from tests.support.harness import PASSWORD
from vault import apis

pytestmark = pytest.mark.group("node")
BUNDLE = FOLDER / "auth0" / "node_modules" / "@auth0" / "auth0-spa-js" / "dist" / "auth0-spa-js.production.js"
ACCESS = "urn:ietf:params:oauth:token-type:access_token"
PAGE = """<!doctype html><title>Orders</title><script src="/auth0.js"></script><script>
const client = new auth0.Auth0Client(SETTINGS);
const settled = location.search.includes('state=') ? client.handleRedirectCallback() : Promise.resolve(null);
settled.catch(() => {});
</script>"""


@asynccontextmanager
async def application(place: Tenant) -> AsyncGenerator[str]:
    """Serve the application and yield its URL: every path returns a page with the SDK and its settings."""
    bundle = await asyncio.to_thread(BUNDLE.read_bytes)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        is_script = head.startswith(b"GET /auth0.js ")
        body, kind = (bundle, "text/javascript") if is_script else (page, "text/html")
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n".encode())
        writer.write(b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = {
        "domain": place.domain,
        "clientId": "spa",
        "useRefreshTokens": True,
        "useMrrt": True,
        "cacheLocation": "localstorage",
        "authorizationParams": {
            "redirect_uri": f"{origin}/callback",
            "audience": API,
            "scope": "openid profile offline_access",
        },
    }
    page = PAGE.replace("SETTINGS", json.dumps(settings)).encode()
    async with server:
        yield origin


async def say_yes(page: Page, origin: str, call: str) -> object:
    """Let the SDK redirect the browser, approve wherever it lands, and return what the SDK makes of the response."""
    await page.evaluate(f"() => {{ {call} }}")
    await page.wait_for_url(lambda url: not url.startswith(origin))
    for _ in range(6):
        await page.wait_for_load_state("networkidle")
        if page.url.startswith(origin):
            return await page.evaluate("settled")
        before = page.url
        if await page.locator("input[type=password]").count():
            await page.fill("form:has(input[type=password]) input[name=name]", "alice")
            await page.fill("input[type=password]", PASSWORD)
            await page.click("form:has(input[type=password]) button")
        else:
            if await (choice := page.get_by_role("radio", name="Read & write")).count():
                await choice.first.check()
            await page.get_by_role("button", name="Allow").click()
        # Until the browser follows the redirect, the consent form's response has this URL without a query.
        await page.wait_for_url(lambda url, before=before: url != before and not url.endswith("/consent"))
    raise AssertionError(page.url)


async def test_a_single_page_application_signs_in_and_links_an_account(tmp_path: Path) -> None:
    if not BUNDLE.exists():
        unavailable("Auth0's SDKs need: make node")
    async with tenant(tmp_path) as place, application(place) as origin, running_chromium() as browser:
        facts = {"auth_method": "none", "secret_hash": None, "resources": (API,), "metadata": {"auth0": True}}
        await place.client("spa", redirect_uris=(f"{origin}/callback",), **facts)
        api = await place.client("orders-api", redirect_uris=())
        now = place.vault.deployment.now()
        async with place.vault.deployment.transaction() as transaction:
            await apis.add_api(transaction, API, name="Orders", now=now, scopes=frozenset())
            await apis.link_client(transaction, API, client_id=api.id, now=now)
        context = await browser.new_context(ignore_https_errors=True)
        page = await context.new_page()
        await page.goto(origin)
        await say_yes(page, origin, "client.loginWithRedirect()")
        user = await page.evaluate("client.getUser()")
        connect = "client.connectAccountWithRedirect({connection: 'sign-in-with-slack', scopes: ['chat:write']})"
        linked = await say_yes(page, origin, connect)
        token = await page.evaluate("client.getTokenSilently()")
        await context.close()
        exchange = {
            "grant_type": FEDERATED,
            "client_id": api.id,
            "client_secret": SECRET,
            "subject_token": token,
            "subject_token_type": ACCESS,
            "connection": "sign-in-with-slack",
        }
        async with httpx2.AsyncClient(base_url=place.vault.url, transport=place.way(), timeout=30) as http:
            exchanged = await http.post("/oauth/token", json=exchange)
    assert user["preferred_username"] == "alice"
    assert isinstance(linked, dict)
    assert linked["connection"] == "sign-in-with-slack"
    assert exchanged.json()["scope"].split() == ["chat:write"]
