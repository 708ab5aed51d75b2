"""What a person does on the pages with ten agents and eight accounts, in real Chromium; actions are counted."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial

import pytest
from playwright.async_api import Browser, BrowserContext, CDPSession, Page, ViewportSize, Worker, expect

from server.http.page_texts import text
from server.notices import senders
from server.notices.texts import Line, NoticeMessage
from server.portal.approvals.notification_answers import form_of
from tests.generating.images.pictures import paths_of
from tests.generating.images.showcase import POST, Showcase, ask, furnish, provider_settings, settle_in
from tests.portal.test_portal_accessible import violations
from tests.support.chromium import PAGE_PATIENCE
from tests.support.doubles.push_service import PushService, SubscribedBrowser, running_push_service
from tests.support.rooms.portal_room import Room, running_room
from vault import delegations
from vault.approvals import approvals
from vault.approvals.approvals import Approval, ToolCall
from vault.notices import channels
from vault.records import Event

pytestmark = [pytest.mark.group("browser"), pytest.mark.timeout(180)]
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 360, "height": 740}


@dataclass(frozen=True)
class Stage:
    """A vault with data, and its person."""

    room: Room
    shown: Showcase

    @property
    def url(self) -> str:
        return self.room.url


@pytest.fixture(scope="module")
async def stage(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stage]:
    del browser  # requested first, so that nothing is started if the tests are skipped
    overrides = {"providers": provider_settings()}
    async with running_room(tmp_path_factory.mktemp("journeys"), overrides=overrides) as room:
        shown = await furnish(room, await room.user("alice"))
        await settle_in(room, shown)
        yield Stage(room, shown)


async def signed_in(browser: Browser, stage: Stage, *, viewport: ViewportSize = DESKTOP, **options: object) -> Page:
    """A tab of a browser in which alice is signed in; it records violations of the pages' policy.

    She signed in elsewhere: in test_portal_browser.py the browser itself shows the page for it.
    """
    person = await stage.room.signed_in("alice")
    cookies = [{"name": one.name, "value": one.value or "", "url": stage.url} for one in person.http.cookies.jar]
    context: BrowserContext = await browser.new_context(viewport=viewport, **options)  # pyright: ignore[reportArgumentType]
    context.set_default_timeout(PAGE_PATIENCE)
    await context.add_cookies(cookies)  # pyright: ignore[reportArgumentType] -- as playwright wants them
    page = await context.new_page()
    page.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
    await page.goto(f"{stage.url}/")
    return page


complaints: list[str] = []


async def ask_for_approval(stage: Stage, text: str) -> Approval:
    """A new call of Cursor waits for approval: a message to a channel whose name the vault knows."""
    shown = stage.shown
    call = ToolCall("slack_post", lambda: {**POST, "text": f"{POST['text']}\n\n{text}"})
    return await ask(stage.room, shown.user, shown.agents[0], shown.accounts[0], call)


async def state(stage: Stage, approval: Approval) -> str:
    deployment = stage.room.deployment
    found = await approvals.get(deployment.database, deployment.keys, approval.id)
    assert found is not None
    return found.state.value


async def tab_to(page: Page, words: str, *, within: int = 40) -> int:
    """Press Tab until the element with these words has the focus; returns how often."""
    for count in range(1, within + 1):
        await page.keyboard.press("Tab")
        if words in await page.evaluate("document.activeElement.textContent"):
            return count
    pytest.fail(f"{words!r} is not reached with {within} presses of Tab")


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
    await expect(
        page.get_by_text("Saved: Cursor can no longer post, change, and delete messages as you on Slack.")
    ).to_be_visible()
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
    await expect(page.get_by_role("heading", name="Needs your attention")).to_be_visible()
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
    await expect(page.get_by_text("New events appear automatically")).to_be_visible()
    event = Event("tool.called", "failed", stage.shown.user.id, stage.shown.agents[0].id, None, {"code": "timeout"})
    await stage.room.deployment.activity.record(event)
    await expect(page.locator(".event.new")).to_contain_text("It took too long.")
    assert await page.locator(".event.new time").first.get_attribute("title"), "in local time"
    await page.get_by_label("Outcome").select_option("refused")  # the filter is a form that results in an address
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


async def test_furnished_pages_fit_and_keep_nobody_out(stage: Stage, browser: Browser) -> None:
    page = await signed_in(browser, stage)
    client = await stage.room.agent(name="An agent with a name that has no end" + "-and-no-break" * 9)
    paths = [*paths_of(stage.room, stage.shown).values(), stage.room.authorize_path(client)]
    found: dict[str, list[str]] = {}
    for path in paths:
        answer = await page.goto(f"{stage.url}{path}")
        assert answer is not None
        assert answer.status == 200, path
        for scheme, viewport in (("light", DESKTOP), ("dark", PHONE)):
            await page.set_viewport_size(viewport)
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            widths = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert widths[0] <= widths[1], (path, scheme)
            found[f"{path} {scheme}"] = await violations(page)
    await page.context.close()
    assert {path: what for path, what in found.items() if what} == {}
    assert complaints == []


async def test_pages_read_from_right_to_left_too(stage: Stage, browser: Browser) -> None:
    page = await signed_in(browser, stage)
    lists = ("/", "/agents", "/connections", "/approvals", "/activity", "/notifications", "/account", "/first-run")
    for path in (*lists, f"/agents/{stage.shown.agents[0].id}"):
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


@pytest.mark.parametrize(("scheme", "script"), [("light", True), ("dark", False)], ids=["script", "no script"])
async def test_an_approval_is_understood_and_answered_on_a_phone_in_one_screen(
    stage: Stage, browser: Browser, scheme: str, script: bool
) -> None:
    approval = await ask_for_approval(stage, f"on a phone, {scheme}, {script}")
    page = await signed_in(browser, stage, viewport=PHONE, color_scheme=scheme, java_script_enabled=script)
    await page.goto(f"{stage.url}/approvals/{approval.id}")
    sentence = page.get_by_role("heading", level=1)
    await expect(sentence).to_have_text("Cursor wants to post to #launch C0LAUNCH24 in Slack as alice (Acme).")
    yes, no = page.get_by_role("button", name="Approve once"), page.get_by_role("button", name="Deny", exact=True)
    message = page.locator("pre.text").filter(has_text="The release is out")
    for shown in (sentence, message, page.get_by_text("Answer within"), yes, no):
        await expect(shown).to_be_in_viewport(ratio=1)
    box, answers = await message.bounding_box(), await yes.bounding_box()
    assert box is not None
    assert answers is not None
    assert box["y"] + box["height"] <= answers["y"], "the answers hide nothing of the text"
    assert answers["height"] >= 44, "for a thumb"
    await yes.click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Approved")
    assert await state(stage, approval) == "approved"
    await page.context.close()
    assert complaints == []


async def test_an_approval_is_answered_by_keyboard_alone(stage: Stage, browser: Browser) -> None:
    page = await signed_in(browser, stage)
    for words, said, then in (("Approve once", "Approved", "approved"), ("Deny", "Denied", "refused")):
        approval = await ask_for_approval(stage, words)
        await page.goto(f"{stage.url}/approvals/{approval.id}")
        assert await tab_to(page, words) < 12
        assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text(said)
        assert await state(stage, approval) == then
    await page.context.close()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
async def test_calls_are_approved_in_advance_by_keyboard_and_that_is_ended_and_taken_back(
    stage: Stage, browser: Browser, script: bool
) -> None:
    approval = await ask_for_approval(stage, f"in advance, {script}")
    page = await signed_in(browser, stage, viewport=PHONE, java_script_enabled=script)
    await page.goto(f"{stage.url}/approvals/{approval.id}")
    offer = page.locator("summary", has_text="Approve calls like this in advance")
    await offer.press("Enter")
    await expect(page.get_by_text("channel #launch (C0LAUNCH24)")).to_be_visible()
    await page.get_by_label("Calls a day, at most").fill("3")
    await page.get_by_role("combobox", name=re.compile("^For")).select_option("1")
    await page.get_by_role("button", name="Approve this and calls like it").press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Approved")
    await page.goto(f"{stage.url}/approvals")
    end = page.get_by_role("button", name="End Post to Slack Cursor channel #launch (C0LAUNCH24)")
    await end.press("Enter")
    await expect(page.get_by_text("Cursor asks you again before")).to_be_visible()
    await expect(end).to_have_count(0)
    await page.get_by_role("button", name="Undo").press("Enter")
    await expect(end).to_have_count(1)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.context.close()


async def test_the_map_is_read_with_the_keyboard_and_as_a_table(stage: Stage, browser: Browser) -> None:
    page = await signed_in(browser, stage)
    first = page.locator(".map li[data-from='0'] a")
    name = await first.locator("strong").inner_text()
    await first.focus()
    marked = "[...document.querySelectorAll('.map path.on')].map(line => line.dataset.from)"
    lines: list[str] = await page.evaluate(marked)
    assert lines
    assert set(lines) == {"0"}
    await first.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text(name)
    await page.context.close()
    plain = await signed_in(browser, stage, viewport=PHONE, java_script_enabled=False)
    await plain.locator("summary", has_text="As a table").press("Enter")
    await expect(plain.get_by_role("row", name=re.compile(r"^Cursor Slack .* (once|\d+ times)$"))).to_be_visible()
    assert await plain.locator(".map").evaluate("map => map.scrollWidth <= map.clientWidth")
    await plain.context.close()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
async def test_quiet_hours_are_chosen_by_keyboard_on_a_phone(stage: Stage, browser: Browser, script: bool) -> None:
    page = await signed_in(browser, stage, viewport=PHONE, java_script_enabled=script, locale="en-GB")
    await page.goto(f"{stage.url}/notifications")
    await page.get_by_label("A new agent was allowed").select_option("daily")
    await page.get_by_label("Quiet from").fill("22:00")
    await page.get_by_label("Quiet until").fill("07:00")
    await page.get_by_label("Time zone").fill("Europe/Berlin")
    await page.get_by_role("button", name="Save").press("Enter")
    await expect(page.get_by_role("status")).to_contain_text("Saved.")
    await expect(page.get_by_label("Quiet from")).to_have_value("22:00")
    held = await channels.get_settings(stage.room.deployment.database, stage.shown.user.id)
    assert (held.quiet, held.zone, held.how("agent")) == ((22 * 60, 7 * 60), "Europe/Berlin", "daily")
    await page.context.close()


# Stands in for the browser's own push service, which doesn't work without a network. The script is our real one.
_PUSH_SERVICE = """([made, endpoint]) => {
  const unsubscribe = async () => localStorage.removeItem("sub");
  const subscription = { endpoint, unsubscribe, toJSON: () => JSON.parse(made) };
  PushManager.prototype.getSubscription = async () => localStorage.getItem("sub") ? subscription : null;
  PushManager.prototype.subscribe = async (options) => {
    localStorage.setItem("sub", JSON.stringify([options.userVisibleOnly, options.applicationServerKey]));
    return subscription; }; }"""
_CLICK = """async (action) => {
  const opened = [], [shown] = await self.registration.getNotifications(), ended = [];
  self.clients.openWindow = async (url) => opened.push(url);
  const event = new NotificationEvent("notificationclick", { notification: shown, action });
  event.waitUntil = (work) => ended.push(work);
  self.dispatchEvent(event);
  await Promise.all(ended);
  return opened; }"""


@dataclass(frozen=True)
class PushedTo:
    """The worker of a tab's browser, and what it shows. Chromium's own tools stand in for the push service."""

    page: Page
    worker: Worker
    devtools: CDPSession
    told: dict[str, str]

    @classmethod
    async def of(cls, page: Page, stage: Stage) -> PushedTo:
        devtools = await page.context.new_cdp_session(page)
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def note(event: dict[str, list[dict[str, str]]]) -> None:
            for one in event["registrations"]:
                if not found.done():
                    found.set_result(one["registrationId"])

        devtools.on("ServiceWorker.workerRegistrationUpdated", note)
        await devtools.send("ServiceWorker.enable")
        registration = await asyncio.wait_for(found, 30)
        (worker,) = page.context.service_workers
        return cls(page, worker, devtools, {"origin": stage.url, "registrationId": registration})

    async def shown_notifications(self) -> list[tuple[str, str, list[str]]]:
        """Title, body, and actions of each notification."""
        all_of_them = "(await (await navigator.serviceWorker.getRegistration('/static/')).getNotifications())"
        one = "(one) => [one.title, one.body, one.actions.map((action) => action.title)]"
        return await self.page.evaluate(f"async () => {all_of_them}.map({one})")

    async def show(self, message: dict[str, object]) -> list[tuple[str, str, list[str]]]:
        """Deliver a message until it is shown; returns everything that is shown."""
        async with asyncio.timeout(30):
            while True:  # Chromium sometimes drops a message while it starts the worker
                await self.devtools.send("ServiceWorker.deliverPushMessage", {**self.told, "data": json.dumps(message)})
                for _ in range(40):
                    if said := await self.shown_notifications():
                        return said
                    await asyncio.sleep(0.05)

    async def click(self, action: str) -> list[str]:
        """Press an action of the only notification, or the notification itself; returns the pages that opened."""
        return await self.worker.evaluate(_CLICK, action)


async def push_payload(
    stage: Stage, service: PushService, subscribed: SubscribedBrowser, approval: Approval
) -> dict[str, object]:
    """What the vault tells a browser about an approval."""
    deployment = stage.room.deployment
    held = await channels.list_channels(deployment.database, deployment.keys, stage.shown.user.id)
    channel = next(one for one in held if subscribed.endpoint in one.target)
    form = await form_of(deployment, channel, approval.id)
    url = f"{stage.url}/approvals/{approval.id}"
    message = NoticeMessage("Cursor asks", (Line("Cursor asks", url),), url, "approval", answer=form)
    service.messages.clear()
    await senders.send(deployment, channel, message)
    (sent,) = service.sent_to(subscribed)
    return json.loads(subscribed.read(sent.body))


async def test_a_browser_is_told_of_an_approval_and_a_click_opens_its_page(stage: Stage, browser: Browser) -> None:
    async with running_push_service() as service:
        subscribed = service.browser("chromium")
        page = await signed_in(browser, stage)
        await page.context.grant_permissions(["notifications"], origin=stage.url)
        stand_in = f"({_PUSH_SERVICE})({json.dumps([subscribed.subscription(), subscribed.endpoint])})"
        await page.context.add_init_script(stand_in)
        await page.goto(f"{stage.url}/notifications")
        key = await page.locator("form[data-push]").get_attribute("data-push")
        await page.get_by_role("button", name="Turn on").press("Enter")
        await expect(page.get_by_role("status")).to_contain_text("Added.")
        assert json.loads(await page.evaluate("localStorage.getItem('sub')")) == [True, key]
        row = page.get_by_role("listitem").filter(has=page.get_by_text("This browser"))
        await expect(row).to_contain_text("Chrome on Linux")
        await expect(page.get_by_role("button", name="Turn on")).to_be_hidden()
        await row.get_by_role("button", name="Send a test").click()
        await expect(page.get_by_role("status")).to_contain_text("The test was sent.")
        (sent,) = service.sent_to(subscribed)

        worker = await PushedTo.of(page, stage)
        for url, opened in (("", f"{stage.url}/notifications"), ("https://evil.example/", stage.url)):
            message = json.loads(subscribed.read(sent.body))
            message |= {"url": url or message["url"], "action": "Review"}
            said = await worker.show(message)
            assert said == [[text("notice.test_title"), text("notice.test_body"), ["Review"]]]
            assert await worker.click("open") == [opened]
        async with stage.room.deployment.transaction() as transaction:  # as a sign-in with a passkey does
            proved = "update sessions set proved_at = :now where user_id = :user_id"
            await transaction.execute(proved, {"now": stage.room.deployment.now(), "user_id": stage.shown.user.id})
        await row.get_by_role("button", name="Answer approvals here").click()
        await expect(page.get_by_role("status")).to_contain_text("On.")
        for action, ended, words in (("allow", "approved", "Approved."), ("deny", "refused", "Denied.")):
            call = ToolCall("slack_post", partial(dict, POST, text=f"From the notification: {action}"))
            approval = await ask(stage.room, stage.shown.user, stage.shown.agents[0], stage.shown.accounts[0], call)
            message = await push_payload(stage, service, subscribed, approval)
            ((_, body, actions),) = await worker.show(message)
            assert f"From the notification: {action}" in body
            assert actions == ["Approve once", "Deny"]
            assert await worker.click(action) == []
            assert await state(stage, approval) == ended
            ((title, _, _),) = await worker.shown_notifications()
            assert title.startswith(words)
            assert await worker.click("") == [f"{stage.url}/approvals/{approval.id}"]
            await worker.show(message)
            assert await worker.click(action) == [f"{stage.url}/approvals/{approval.id}"], "answered already"
        await row.get_by_role("button", name="Remove").click()
        await expect(page.get_by_role("status")).to_contain_text("Removed.")
        await expect(page.get_by_role("button", name="Turn on")).to_be_visible()
        await page.context.close()
    assert complaints == []


async def test_a_browser_without_permission_says_what_to_do(stage: Stage, browser: Browser) -> None:
    page = await signed_in(browser, stage)
    await page.goto(f"{stage.url}/notifications")
    await page.evaluate("Notification.requestPermission = async () => 'denied'")
    await page.get_by_role("button", name="Turn on").click()
    await expect(page.get_by_role("alert")).to_contain_text("Notifications are blocked for this site.")
    await page.context.close()
    plain = await signed_in(browser, stage, java_script_enabled=False)
    await plain.goto(f"{stage.url}/notifications")
    await expect(plain.get_by_text("can't show notifications of the vault")).to_be_visible()
    await expect(plain.get_by_role("button", name="Turn on")).to_be_hidden()
    await plain.context.close()
