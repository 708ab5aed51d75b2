"""@auth0/auth0-spa-js, unmodified, in Chromium over TLS: log-in with PKCE, an API's token, and a linked account."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import Page, Route

from tests.auth0.application import CALLBACK, FEDERATED, SECRET
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


async def serve(page: Page, place: Tenant) -> None:
    """The application's address, with a page that has the SDK and its settings."""
    settings = {
        "domain": place.domain,
        "clientId": "spa",
        "useRefreshTokens": True,
        "useMrrt": True,
        "cacheLocation": "localstorage",
        "authorizationParams": {"redirect_uri": CALLBACK, "audience": API, "scope": "openid profile offline_access"},
    }

    async def answer(route: Route) -> None:
        if route.request.url.endswith("/auth0.js"):
            await route.fulfill(path=BUNDLE, content_type="text/javascript")
        else:
            await route.fulfill(body=PAGE.replace("SETTINGS", json.dumps(settings)), content_type="text/html")

    await page.route("https://app.example/**", answer)


async def say_yes(page: Page, call: str) -> object:
    """Let the SDK send the browser away, say yes wherever it lands, and see what the SDK makes of the way back."""
    await page.evaluate(f"() => {{ {call} }}")
    for _ in range(6):
        await page.wait_for_url(lambda url: not url.startswith("https://app.example/"), wait_until="load")
        if await page.locator("input[type=password]").count():
            await page.fill("form:has(input[type=password]) input[name=name]", "alice")
            await page.fill("input[type=password]", PASSWORD)
            await page.click("form:has(input[type=password]) button")
        else:
            await page.click("button[name=decision][value=allow]")
        await page.wait_for_load_state("load")
        if page.url.startswith(CALLBACK):
            return await page.evaluate("settled")
    raise AssertionError(page.url)


async def test_a_single_page_application_signs_in_and_links_an_account(tmp_path: Path) -> None:
    if not BUNDLE.exists():
        unavailable("Auth0's SDKs need: make node")
    async with tenant(tmp_path) as place, running_chromium() as browser:
        await place.client("spa", auth_method="none", secret_hash=None, resources=(API,), metadata={"auth0": True})
        api = await place.client("orders-api", redirect_uris=())
        now = place.vault.deployment.now()
        async with place.vault.deployment.transaction() as transaction:
            await apis.add_api(transaction, API, name="Orders", now=now, scopes=frozenset())
            await apis.link_client(transaction, API, client_id=api.id, now=now)
        context = await browser.new_context(ignore_https_errors=True)
        page = await context.new_page()
        await serve(page, place)
        await page.goto("https://app.example/")
        await say_yes(page, "client.loginWithRedirect()")
        user = await page.evaluate("client.getUser()")
        connect = "client.connectAccountWithRedirect({connection: 'sign-in-with-slack', scopes: ['chat:write']})"
        linked = await say_yes(page, connect)
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
        async with httpx2.AsyncClient(base_url=place.vault.url, transport=place.way()) as http:
            exchanged = await http.post("/oauth/token", json=exchange)
    assert user["name"] == "alice"
    assert isinstance(linked, dict)
    assert linked["connection"] == "slack"
    assert exchanged.json()["scope"].split() == ["chat:write"]
