"""What a person does on the pages with ten agents and eight accounts, in real Chromium, counted in actions."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import pytest
from playwright.async_api import Browser, BrowserContext, Page, ViewportSize, expect

from tests.portal.test_portal_accessible import violations
from tests.support.chromium import running_chromium
from tests.support.harness import PASSWORD
from tests.support.rooms.portal_room import Room, running_room
from tests.support.screenshots import paths_of
from tests.support.showcase import Showcase, furnish, provider_settings
from vault import delegations
from vault.records import Event

pytestmark = [pytest.mark.group("browser"), pytest.mark.timeout(180)]
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 360, "height": 740}


@dataclass(frozen=True)
class Stage:
    """A furnished vault, and the person in it."""

    room: Room
    shown: Showcase

    @property
    def url(self) -> str:
        return self.room.url


@pytest.fixture(scope="module")
async def browser() -> AsyncGenerator[Browser]:
    async with running_chromium() as started:
        yield started


@pytest.fixture(scope="module")
async def stage(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stage]:
    del browser  # first, so that nothing is started only to be skipped
    overrides = {"providers": provider_settings()}
    async with running_room(tmp_path_factory.mktemp("journeys"), overrides=overrides) as room:
        yield Stage(room, await furnish(room, await room.user("alice")))


async def signed_in(browser: Browser, stage: Stage, *, viewport: ViewportSize = DESKTOP, **options: object) -> Page:
    """A tab of a browser in which alice is signed in; it notes what breaks the pages' policy."""
    context: BrowserContext = await browser.new_context(viewport=viewport, **options)  # pyright: ignore[reportArgumentType]
    context.set_default_timeout(10_000)
    page = await context.new_page()
    page.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
    await page.goto(f"{stage.url}/sign-in")
    await page.get_by_label("Name").fill("alice")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await page.wait_for_url(f"{stage.url}/")
    return page


complaints: list[str] = []


@pytest.fixture(autouse=True)
def no_complaints() -> None:
    complaints.clear()


async def test_an_agent_is_let_in_to_two_accounts_with_three_actions_and_no_scrolling(
    stage: Stage, browser: Browser
) -> None:
    room = stage.room
    client = await room.agent(name="Windsurf")
    page = await signed_in(browser, stage)
    await page.route("https://agent.example/**", lambda route: route.fulfill(body="done"))
    await page.goto(f"{stage.url}{room.authorize_path(client)}")
    scrolled = "[document.documentElement.scrollHeight - innerHeight, scrollY]"
    assert await page.evaluate(scrolled) == [0, 0], "everything is in sight"
    assert await page.evaluate("document.querySelectorAll('input:checked:not([value=off])').length") == 0
    await page.get_by_role("group", name="Slack").get_by_role("radio", name="Read & write").check()  # 1
    await page.get_by_role("group", name="Linear").get_by_role("radio", name="Read", exact=True).check()  # 2
    assert await page.evaluate(scrolled) == [0, 0]
    await page.get_by_role("button", name="Allow").click()  # 3
    await expect(page.get_by_text("done")).to_be_visible()
    given = await delegations.list_for_client(room.deployment.database, stage.shown.user.id, client_id=client.id)
    names = {one.id: one.provider for one in stage.shown.accounts}
    assert {names[one.connection_id] for one in given} == {"slack", "linear"}
    await page.context.close()
    assert complaints == []


async def test_the_answer_comes_early_for_the_keyboard(stage: Stage, browser: Browser) -> None:
    page = await signed_in(browser, stage)
    await page.goto(f"{stage.url}{stage.room.authorize_path(await stage.room.agent(name='Early bot'))}")
    focused: list[str] = []
    for _ in range(8):
        await page.keyboard.press("Tab")
        focused.append(await page.evaluate("document.activeElement.textContent.trim()"))
    assert "Allow" in focused
    assert focused.index("Deny") < focused.index("Allow") < 8
    await page.context.close()


async def test_cursor_is_stopped_from_posting_to_slack_with_three_actions_and_that_is_taken_back(
    stage: Stage, browser: Browser
) -> None:
    cursor, slack = stage.shown.agents[0], stage.shown.accounts[0]
    page = await signed_in(browser, stage)
    await page.goto(f"{stage.url}/agents")
    await page.get_by_role("link", name="Cursor").click()  # 1
    group = page.get_by_role("group", name="Slack")
    await expect(group.get_by_role("radio", name="Read & write")).to_be_checked()
    await group.get_by_role("radio", name="Read", exact=True).check()  # 2
    await page.get_by_role("button", name="Save").click()  # 3
    await expect(page.get_by_text("Saved: Cursor can no longer post messages as you on Slack.")).to_be_visible()
    which = {"user_id": stage.shown.user.id, "client_id": cursor.id, "connection_id": slack.id}
    held = await delegations.get(stage.room.deployment.database, **which)
    assert held is not None
    assert "chat:write" not in held.scopes
    await page.get_by_role("button", name="Undo").click()
    await expect(page.get_by_text("Undone: ")).to_be_visible()
    held = await delegations.get(stage.room.deployment.database, **which)
    assert held is not None
    assert "chat:write" in held.scopes
    await page.context.close()
    assert complaints == []


async def test_ten_agents_are_a_list_without_a_single_box(stage: Stage, browser: Browser) -> None:
    page = await signed_in(browser, stage)
    await page.goto(f"{stage.url}/agents")
    assert await page.get_by_role("heading", level=2).count() >= len(stage.shown.agents)
    assert await page.evaluate("document.querySelectorAll('input[type=checkbox], input[type=radio]').length") == 0
    assert await page.evaluate("document.documentElement.scrollHeight") < 1400
    await page.get_by_role("searchbox", name="Find an agent").fill("cursor")
    assert await page.locator("#agents > li:visible").count() == 1
    await page.context.close()


async def test_a_change_is_made_by_keyboard_alone(stage: Stage, browser: Browser) -> None:
    page = await signed_in(browser, stage)
    await page.goto(f"{stage.url}/agents/{stage.shown.agents[1].id}")
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.name?.startsWith('level.')"):
            break
    before = await page.evaluate("document.activeElement.value")
    await page.keyboard.press("ArrowLeft")
    assert await page.evaluate("document.activeElement.value") != before
    outline = await page.evaluate("getComputedStyle(document.activeElement.parentElement).outlineStyle")
    assert outline == "solid", "the focus is seen"
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("Saved: ")).to_be_visible()
    await page.context.close()


async def test_everything_works_without_javascript(stage: Stage, browser: Browser) -> None:
    page = await signed_in(browser, stage, java_script_enabled=False)
    await expect(page.get_by_role("heading", name="Needs you")).to_be_visible()
    await expect(page.get_by_text("answer within").first).to_contain_text("UTC")
    await page.get_by_role("link", name="Accounts", exact=True).click()
    await page.get_by_role("link", name="Manage Slack").click()
    group = page.get_by_role("group", name="Zed")
    await group.get_by_role("radio", name="Custom").check()
    await group.get_by_role("checkbox", name="Search everything that you can read").uncheck()
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("Saved: Zed can no longer search everything")).to_be_visible()
    await page.get_by_role("button", name="Undo").click()
    await expect(page.get_by_text("Undone: Zed can now search everything")).to_be_visible()
    await page.context.close()


async def test_a_new_event_appears_on_the_open_activity_page(stage: Stage, browser: Browser) -> None:
    page = await signed_in(browser, stage)
    await page.goto(f"{stage.url}/activity?outcome=failed")
    await expect(page.get_by_text("New events appear by themselves")).to_be_visible()
    event = Event("tool.called", "failed", stage.shown.user.id, stage.shown.agents[0].id, None, {"code": "timeout"})
    await stage.room.deployment.activity.record(event)
    await expect(page.locator(".event.new")).to_contain_text("It took too long.", timeout=15_000)
    assert await page.locator(".event.new time").first.get_attribute("title"), "in local time"
    await page.get_by_label("Outcome").select_option("refused")  # the filter is a form that leads to an address
    await page.get_by_role("button", name="Show").click()
    await expect(page).to_have_url(re.compile("outcome=refused"))
    await page.locator(".event").first.get_by_text("Details").click()
    await expect(page.locator(".event dl").first).to_be_visible()
    await page.context.close()
    assert complaints == []


async def test_the_script_shows_local_times_and_counts_down(stage: Stage, browser: Browser) -> None:
    page = await signed_in(browser, stage, timezone_id="Asia/Kolkata", locale="en-US")
    waiting = page.locator("time[data-ends]").first
    first = await waiting.text_content()
    assert first is not None
    assert first.count(":") == 1
    await expect(waiting).not_to_have_text(first)
    await page.goto(f"{stage.url}/activity")
    assert "GMT+5:30" in (await page.locator(".event time").first.text_content() or "")
    await page.context.close()


@pytest.mark.parametrize(("scheme", "viewport"), [("light", DESKTOP), ("dark", PHONE)], ids=["desktop", "phone"])
async def test_furnished_pages_fit_and_keep_nobody_out(
    stage: Stage, browser: Browser, scheme: str, viewport: ViewportSize
) -> None:
    page = await signed_in(browser, stage, viewport=viewport, color_scheme=scheme)
    client = await stage.room.agent(name="An agent with a name that has no end" + "-and-no-break" * 9)
    paths = [*paths_of(stage.room, stage.shown).values(), stage.room.authorize_path(client)]
    found: dict[str, list[str]] = {}
    for path in paths:
        answer = await page.goto(f"{stage.url}{path}")
        assert answer is not None
        assert answer.status == 200, path
        widths = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1], path
        found[path] = await violations(page)
    await page.context.close()
    assert {path: what for path, what in found.items() if what} == {}
    assert complaints == []


async def test_pages_read_from_right_to_left_too(stage: Stage, browser: Browser) -> None:
    page = await signed_in(browser, stage)
    for path in ("/", "/agents", f"/agents/{stage.shown.agents[0].id}", "/connections"):
        await page.goto(f"{stage.url}{path}")
        await page.evaluate("document.documentElement.dir = 'rtl'")
        sides = await page.evaluate(
            "[document.querySelector('.top').getBoundingClientRect().left,"
            " document.querySelector('main').getBoundingClientRect().left,"
            " document.documentElement.scrollWidth - innerWidth]"
        )
        assert sides[0] > sides[1], path
        assert sides[2] <= 0, path
    await page.context.close()
