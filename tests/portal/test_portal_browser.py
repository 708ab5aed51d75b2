"""The pages in real Chromium: what only a browser shows, such as form-action on redirects, cookies and the keyboard."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
from collections.abc import AsyncGenerator
from urllib.parse import urlencode

import pytest
from playwright.async_api import Browser, BrowserContext, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.support.doubles.openid_double import running_openid
from tests.support.harness import PASSWORD, free_socket, serve_app
from tests.support.rooms.portal_room import Room, running_room
from vault import connections, delegations, grants

pytestmark = [pytest.mark.group("browser"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
async def room(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    del browser  # requested first, so that nothing is started if the tests are skipped
    async with running_openid(lambda: int(time.time())) as provider:
        overrides = {
            "sign_in": {"openid": {"company": provider.settings()}},
            "sandbox": {"loopback_openid": True},
        }
        async with running_room(tmp_path_factory.mktemp("browser"), overrides=overrides) as opened:
            yield opened


class Agent:
    """A client's loopback listener, which afterward sends the browser on to another origin, as some clients do."""

    def __init__(self, url: str, *, then: str | None) -> None:
        self.url = url
        self.then = then
        self.answers: list[dict[str, str]] = []

    async def callback(self, request: Request) -> Response:
        self.answers.append(dict(request.query_params))
        return RedirectResponse(self.then, 302) if self.then else PlainTextResponse("You can go back to the agent.")

    async def thanks(self, request: Request) -> Response:
        return PlainTextResponse("Thank you.")

    async def frame(self, request: Request) -> Response:
        return HTMLResponse(f'<iframe src="{request.query_params["of"]}"></iframe>')

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/callback", self.callback),
                Route("/thanks", self.thanks),
                Route("/frame", self.frame),
            ]
        )


@pytest.fixture(scope="module")
async def agent() -> AsyncGenerator[Agent]:
    listening = free_socket()
    made = Agent(f"http://127.0.0.1:{listening.getsockname()[1]}", then=None)
    async with serve_app(made.app(), listening):
        yield made


async def _sign_in(page: Page, name: str) -> None:
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in", exact=True).click()


def _request(room: Room, client_id: str, redirect_uri: str) -> tuple[str, str]:
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": "tools connections",
        "state": "from-browser",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "resource": f"{room.url}/mcp",
    }
    return f"{room.url}/authorize?{urlencode(query)}", verifier


@pytest.mark.requirement("S-050", "S-121", "S-127")
async def test_an_agent_is_let_in_from_the_sign_in_page_to_its_own_address(
    room: Room, page: Page, agent: Agent
) -> None:
    user = await room.user()
    redirect = f"{agent.url}/callback"
    client_id = str((await room.vault.register(client_name="Browser bot", redirect_uris=[redirect]))["client_id"])
    url, verifier = _request(room, client_id, redirect)
    await page.goto(url)
    await expect(page.get_by_role("heading")).to_have_text("Sign in")
    await page.get_by_label("Name").fill(user.name)
    await page.get_by_label("Password").fill("wrong")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text("The user name or password is wrong.")
    await expect(page.get_by_label("Password")).to_be_focused()
    await page.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Allow this agent?")
    await expect(page.get_by_text("unverified")).to_be_visible()
    await page.get_by_role("button", name="Allow").click()
    await expect(page.get_by_text("You can go back to the agent.")).to_be_visible()
    answer = agent.answers[-1]
    assert (answer["state"], answer["iss"]) == ("from-browser", room.url)
    redeemed = await room.vault.redeem(client_id, answer["code"], verifier, redirect_uri=redirect)
    assert redeemed.status_code == 200
    assert len(await grants.list_grants(room.deployment.database, user.id)) == 1
    await page.goto(url)
    await expect(page.get_by_text("You can go back to the agent.")).to_be_visible()


async def test_signing_in_anew_leads_straight_to_an_agent_that_was_let_in_before(
    room: Room, page: Page, context: BrowserContext
) -> None:
    """The redirect that follows the sign-in form leads to the agent, which sends the browser on to another origin."""
    user, listening, elsewhere = await room.user(), free_socket(), free_socket()
    thanks = Agent(f"http://127.0.0.1:{elsewhere.getsockname()[1]}", then=None)
    hopping = Agent(f"http://127.0.0.1:{listening.getsockname()[1]}", then=f"{thanks.url}/thanks")
    async with serve_app(thanks.app(), elsewhere), serve_app(hopping.app(), listening):
        redirect = f"{hopping.url}/callback"
        client_id = str((await room.vault.register(client_name="Hop bot", redirect_uris=[redirect]))["client_id"])
        url, verifier = _request(room, client_id, redirect)
        await page.goto(url)
        await _sign_in(page, user.name)
        await page.get_by_role("button", name="Allow").click()
        await expect(page.get_by_text("Thank you.")).to_be_visible()
        await room.vault.redeem(client_id, hopping.answers[-1]["code"], verifier, redirect_uri=redirect)
        await page.goto(f"{url}&prompt=login")
        await expect(page.get_by_text("asks you to sign in again")).to_be_visible()
        await _sign_in(page, user.name)
        await expect(page.get_by_text("Thank you.")).to_be_visible()
        await context.clear_cookies()
        await page.goto(url)
        await _sign_in(page, user.name)
        await expect(page.get_by_text("Thank you.")).to_be_visible()
    assert [answer["state"] for answer in hopping.answers] == ["from-browser"] * 3
    assert len({answer["code"] for answer in hopping.answers}) == 3


async def test_refusing_brings_the_agent_an_error(room: Room, page: Page, agent: Agent) -> None:
    user = await room.user()
    client = await room.agent(redirect_uris=(f"{agent.url}/callback",))
    await page.goto(f"{room.url}{room.authorize_path(client)}")
    await _sign_in(page, user.name)
    await page.get_by_role("button", name="Deny").click()
    await expect(page.get_by_text("You can go back to the agent.")).to_be_visible()
    assert agent.answers[-1]["error"] == "access_denied"


@pytest.mark.requirement("S-140", "S-142")
async def test_an_account_is_connected_from_a_link_and_taken_back(room: Room, page: Page) -> None:
    user, client = await room.user(), await room.agent(name="Post bot")
    await room.grant(user, client)
    link = await room.link(user, client)
    await page.goto(link.url)
    await _sign_in(page, user.name)
    await expect(page.get_by_role("heading", level=1)).to_have_text("An agent requests access to Slack")
    await page.get_by_role("button", name="Allow and connect Slack").click()  # the browser requires a choice first
    await expect(page.get_by_role("heading", level=1)).to_have_text("An agent requests access to Slack")
    await page.get_by_role("radio", name="Read & write").check()
    await page.get_by_role("button", name="Allow and connect Slack").click()
    await page.wait_for_url(f"{room.simulator.url}/**")
    await page.get_by_role("button", name="Allow").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Slack is connected")
    assert "code=" not in page.url
    await expect(page.get_by_text("Post bot")).to_be_visible()
    await page.get_by_role("link", name="Your agents").click()
    await page.get_by_role("link", name="Post bot").click()
    await expect(page.get_by_role("radio", name="Read & write")).to_be_checked()
    await page.get_by_role("radio", name="Off").check()
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("Saved: Post bot can no longer use Slack.")).to_be_visible()
    await expect(page.get_by_role("radio", name="Off")).to_be_checked()
    (held,) = await delegations.list_for_client(room.deployment.database, user.id, client_id=client.id)
    assert not held.is_live(room.deployment.now())
    await page.get_by_role("link", name="Accounts", exact=True).click()
    await page.get_by_role("link", name="Manage Slack").click()
    await page.get_by_role("link", name="Disconnect Slack").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Disconnect Slack?")
    await page.get_by_role("button", name="Disconnect").click()
    await expect(page.get_by_role("status")).to_contain_text("Slack is disconnected")
    await room.until_asked(held.connection_id)
    await page.reload()
    await expect(page.get_by_role("status")).to_contain_text("says that it revoked access")
    assert not await connections.list_connections(room.deployment.database, user.id)
    await page.get_by_role("link", name="Activity").click()
    await expect(page.get_by_text("You disconnected")).to_be_visible()


async def test_a_person_connects_google_with_some_of_its_boxes(room: Room, page: Page) -> None:
    user = await room.user()
    await page.goto(f"{room.url}/connections")
    await _sign_in(page, user.name)
    await page.get_by_role("link", name="Google").click()
    await page.get_by_role("button", name="Go to Google").click()
    await page.wait_for_url(f"{room.simulator.url}/**")
    await page.get_by_role("button", name="Allow").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Google is connected")
    assert len(await connections.list_connections(room.deployment.database, user.id)) == 1


@pytest.mark.requirement("S-134")
async def test_a_person_signs_in_at_another_provider_and_out_again(room: Room, page: Page) -> None:
    await page.goto(f"{room.url}/activity")
    await page.get_by_role("link", name="Continue with Company sign-in").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Activity")
    await expect(page.get_by_text("You signed in")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    await page.goto(f"{room.url}/activity")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


@pytest.mark.requirement("S-127", "S-050")
async def test_a_foreign_page_can_post_none_of_our_forms(room: Room, context: BrowserContext, page: Page) -> None:
    user = await room.user()
    await page.goto(f"{room.url}/connections")
    await _sign_in(page, user.name)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Accounts")
    foreign = await context.new_page()
    await foreign.route(
        "http://evil.localhost/**",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f'<form method="post" action="{room.url}/sign-out"><button>Win a prize</button></form>',
        ),
    )
    await foreign.goto("http://evil.localhost/")
    async with foreign.expect_response(f"{room.url}/sign-out") as waited:
        await foreign.get_by_role("button", name="Win a prize").click()
    assert (await waited.value).status == 403
    await page.reload()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Accounts")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


@pytest.mark.requirement("S-120")
async def test_pages_do_not_show_in_a_frame(room: Room, agent: Agent, context: BrowserContext) -> None:
    outer = await context.new_page()
    for url, name, count in ((f"{room.url}/sign-in", "Sign in", 0), (f"{agent.url}/thanks", "Thank you.", 1)):
        await outer.goto(f"{agent.url}/frame?{urlencode({'of': url})}", wait_until="load")
        await expect(outer.locator("iframe")).to_have_count(1)
        await expect(outer.frame_locator("iframe").get_by_text(name, exact=True)).to_have_count(count)


async def test_everything_can_be_done_by_keyboard(room: Room, page: Page) -> None:
    user = await room.user()
    await page.goto(f"{room.url}/connections")
    await expect(page.get_by_label("Name")).to_be_focused()
    await page.keyboard.type(user.name)
    await page.keyboard.press("Tab")
    await page.keyboard.type(PASSWORD)
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Accounts")
    names: list[str] = []
    for _ in range(12):
        await page.keyboard.press("Tab")
        names.append(await page.evaluate("document.activeElement.textContent.trim()"))
    assert names[0] == "Skip to main content"
    assert {"Token Vault", "Home", "Accounts", "Agents", "Approvals", "Activity", user.name, "Sign out"} <= set(names)


async def test_pages_fit_a_phone_and_can_be_read(room: Room, browser: Browser) -> None:
    user, client = await room.user(), await room.agent(name="A bot with quite a long name that goes on and on" * 2)
    person = await room.signed_in(user)
    await room.connect(person, user, client)
    context = await browser.new_context(viewport={"width": 360, "height": 740})
    try:
        page = await context.new_page()
        await page.goto(f"{room.url}/connections")
        await _sign_in(page, user.name)
        await expect(page.get_by_role("heading", level=1)).to_have_text("Accounts")
        paths = (
            "/",
            "/connections",
            "/agents",
            f"/agents/{client.id}",
            "/approvals",
            "/activity",
            "/account",
            "/device",
            "/first-run",
            "/connect/x",
        )
        for path in (*paths, "/connections/connect?provider=google", room.authorize_path(client)):
            await page.goto(f"{room.url}{path}")
            widths = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert widths[0] <= widths[1], path
            unlabelled = await page.evaluate(
                "[...document.querySelectorAll('input:not([type=hidden]):not([hidden]),select')]"
                ".filter(e => !e.labels.length).map(e => e.name)"
            )
            assert unlabelled == [], path
            for scheme in ("dark", "light"):
                await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                assert await page.evaluate(_CONTRAST) >= 4.5, (path, scheme)
    finally:
        await context.close()


async def test_what_a_code_looks_like_can_be_read_in_its_field(room: Room, page: Page) -> None:
    user = await room.user()
    await page.goto(f"{room.url}/device")
    await _sign_in(page, user.name)
    await expect(page.get_by_label("Code")).to_be_focused()
    await page.evaluate(  # the same color for text, whose contrast can be measured
        "() => { const seen = document.createElement('p'); seen.textContent = 'ABCD';"
        " seen.style.color = getComputedStyle(document.querySelector('.code'), '::placeholder').color;"
        " document.querySelector('main form').append(seen); }"
    )
    assert await page.evaluate(_CONTRAST) >= 4.5


# The lowest contrast between any visible text and its background (WCAG 2.2, 1.4.3).
_CONTRAST = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = parse(c).slice(0, 3).map(v => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    const p = parse(c); if (p.length < 4 || p[3] > 0) return c; } return 'rgb(255,255,255)'; };
  let lowest = 21;
  for (const e of document.querySelectorAll('main *, header *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    if (e.closest('.hidden, .skip, option, [hidden], label:has(:disabled)') || e.tagName === 'OPTION') continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    lowest = Math.min(lowest, (a + 0.05) / (b + 0.05));
  }
  return lowest;
}"""


async def test_two_people_in_two_profiles_do_not_meet(room: Room, browser: Browser) -> None:
    names = [(await room.user()).name for _ in range(2)]
    contexts = [await browser.new_context() for _ in names]
    try:
        pages = [await context.new_page() for context in contexts]

        async def enter(page: Page, name: str) -> str:
            await page.goto(f"{room.url}/account")
            await _sign_in(page, name)
            return await page.get_by_role("heading", level=1).inner_text()

        assert await asyncio.gather(*(enter(page, name) for page, name in zip(pages, names, strict=True))) == names
    finally:
        for context in contexts:
            await context.close()


async def test_an_agent_may_send_the_browser_on_to_its_own_web_site(room: Room, page: Page) -> None:
    """Browsers apply form-action to every redirect after a form, including the agent's own."""
    user = await room.user()
    listening, elsewhere = free_socket(), free_socket()
    thanks = Agent(f"http://127.0.0.1:{elsewhere.getsockname()[1]}", then=None)
    sends_on = Agent(f"http://127.0.0.1:{listening.getsockname()[1]}", then=f"{thanks.url}/thanks")
    async with serve_app(sends_on.app(), listening), serve_app(thanks.app(), elsewhere):
        client = await room.agent(redirect_uris=(f"{sends_on.url}/callback",))
        await page.goto(f"{room.url}{room.authorize_path(client)}")
        await _sign_in(page, user.name)
        await page.get_by_role("button", name="Allow").click()
        await expect(page.get_by_text("Thank you.")).to_be_visible()
        assert "code" in sends_on.answers[-1]
