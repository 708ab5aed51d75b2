"""A vault that went back in time: everything that it issued before is presented again.

Each way of going back has its own vault. After the moment to go back to, an agent is cut off; then the vault is
stopped and put back with `restore`, or as a copy of its files with `quarantine`.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.attacks.attack_races import POST, is_done, link_of
from tests.attacks.portal.attack_people import let_in
from tests.attacks.target import (
    DEVICE,
    REDIRECT,
    Agent,
    Target,
    query_of,
    running_target,
)
from tests.attacks.wire.handles import Handle, handle
from tests.support.person import Person

READ = ("GET", "/repos/alice/notes/readme")

pytestmark = pytest.mark.timeout(400)  # setup takes a minute or two


@dataclass
class Before:
    """What was issued before the vault went back."""

    target: Target
    agent: Agent  # cut off afterward
    kept: Agent  # not cut off, but out of date as well
    made: str  # a token exchanged for the first agent's
    handle: Handle
    browser: Person
    other: str  # the client of the fields below
    code: tuple[str, str]
    consent: str  # a page that waits for an answer
    link: str
    device: dict[str, str]
    answered: dict[str, str]  # a device whose person approved
    pushed: str


async def _device(target: Target) -> dict[str, str]:
    asked = await target.http.post("/device_authorization", data={**target.clients["device"], "scope": "tools"})
    assert asked.status_code == 200, asked.text
    return asked.json()


async def _answer_device_code(target: Target) -> dict[str, str]:
    asked = await _device(target)
    page = await target.alice.submit(
        await target.alice.open("/device"), {"user_code": asked["user_code"]}, form="/device"
    )
    page = await target.alice.submit(page, form="/consent", button=("decision", "allow"))
    assert page.status_code == 200, page.text[:300]
    return asked


async def _before(target: Target) -> Before:
    """Issue one of each kind; all are valid at that time."""
    agent = await let_in(target, target.alice, str((await target.register())["client_id"]), redirect=REDIRECT)
    backend = await target.agent(client="backend", scope="tools exchange offline_access")
    made = await target.exchange("backend", backend.token, resource=f"{target.url}/mcp")
    assert made.status_code == 200, made.text
    other = str((await target.register())["client_id"])
    waiting = await target.alice.open(target.authorize_url(other, "A" * 43))
    form = query_of(target.authorize_url(other, "A" * 43))
    return Before(
        target,
        agent,
        backend,
        made.json()["access_token"],
        await handle(target, "github", "contents:read"),
        await target.browser("alice"),
        other,
        await target.code(other),
        str(waiting.url),
        link_of(target, await target.call(await target.agent(), "slack_post", POST), "connect"),
        await _device(target),
        await _answer_device_code(target),
        (await target.http.post("/par", data=form)).json()["request_uri"],
    )


@pytest.fixture(scope="session", params=["restore", "quarantine"])
async def before(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Before]:
    folder = tmp_path_factory.mktemp("restored")
    async with running_target(folder) as target:
        found = await _before(target)
        assert is_done(await target.call(found.agent, "slack_post", POST))
        assert (await found.handle.call(*READ)).status_code == 200
        file, copy = folder / "vault.backup", folder / "copy"
        await target.command("backup", str(file))
        await target.server.stop()
        shutil.copytree(target.place.data, copy)
        await target.server.restart()
        page = await target.alice.open(f"/agents/{found.agent.client_id}/cut-off")
        await target.alice.submit(page, form="cut-off")
        assert (await target.call(found.agent, "slack_post", POST)).status_code == 401
        await target.server.stop()
        if request.param == "restore":
            await target.command("restore", str(file), "--force")
        else:
            _put_back(copy, target.place.data)
            await target.command("quarantine")
        await target.server.restart()
        yield found


def _put_back(copy: Path, data: Path) -> None:
    for one in data.glob("*.sqlite*"):
        one.unlink()
    for one in copy.glob("*.sqlite*"):
        shutil.copy2(one, data)


async def _shows_the_portal(person: Person) -> bool:
    return (await person.http.get("/connections")).status_code == 200


@pytest.mark.parametrize("which", ["cut off since", "not cut off", "made of another"])
async def test_no_access_token_from_before_works(before: Before, which: str) -> None:
    tokens = {"cut off since": before.agent.token, "not cut off": before.kept.token, "made of another": before.made}
    agent = Agent("", tokens[which])
    for method in ("tools/list", "tools/call"):
        answer = await before.target.mcp(agent, method, {"name": "slack_post", "arguments": POST}, name="slack_post")
        assert answer.status_code == 401
        assert "invalid_token" in answer.headers["www-authenticate"]  # tells a client to refresh or sign in
    assert (await before.target.http.get("/userinfo", headers=agent.headers)).status_code == 401
    refused = await before.target.exchange("backend", agent.token, audience="github", scope="contents:read")
    assert refused.status_code == 400
    assert "access_token" not in refused.text
    form = {**before.target.clients["backend"], "token": agent.token}
    assert (await before.target.http.post("/introspect", data=form)).json() == {"active": False}


@pytest.mark.parametrize("which", ["cut off since", "not cut off"])
async def test_no_refresh_token_from_before_works(before: Before, which: str) -> None:
    agent = before.agent if which == "cut off since" else before.kept
    own = before.target.clients["backend"] if which == "not cut off" else {"client_id": agent.client_id}
    answer = await before.target.token({"grant_type": "refresh_token", "refresh_token": agent.refresh or "", **own})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_no_handle_from_before_works(before: Before) -> None:
    answer = await before.handle.call(*READ)
    assert answer.status_code == 401, answer.text


async def test_no_session_from_before_is_signed_in(before: Before) -> None:
    for person in (before.browser, before.target.mallory):
        assert not await _shows_the_portal(person)
    assert await _shows_the_portal(await before.target.browser("alice"))  # the twin


async def test_no_code_from_before_is_redeemed(before: Before) -> None:
    code, verifier = before.code
    answer = await before.target.redeem(before.other, code, verifier)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_no_page_or_link_from_before_can_be_answered(before: Before) -> None:
    person = await before.target.browser("alice")
    for url in (before.consent, before.link):
        page = await person.open(url)
        assert 'value="allow"' not in page.text, page.text[:300]
        answer = await person.http.post(url, data={"decision": "allow"}, headers={"origin": before.target.url})
        assert "code=" not in answer.headers.get("location", "")


async def test_no_pushed_request_from_before_counts(before: Before) -> None:
    person = await before.target.browser("alice")
    answer = await person.http.get(f"/authorize?client_id={before.other}&request_uri={before.pushed}")
    assert "/consent" not in answer.headers.get("location", "")


async def test_no_device_from_before_gets_a_token_or_an_answer(before: Before) -> None:
    target = before.target
    for asked in (before.device, before.answered):
        form = {"grant_type": DEVICE, **target.clients["device"], "device_code": asked["device_code"]}
        answer = await target.token(form)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant"), answer.text
    person = await target.browser("alice")
    page = await person.submit(await person.open("/device"), {"user_code": before.device["user_code"]}, form="/device")
    assert "/consent" not in str(page.url)


async def test_an_earlier_yes_is_asked_for_again_and_gives_again_what_was_allowed(before: Before) -> None:
    """This applies to agents that were not cut off, too: the restored vault can't tell which ones were."""
    target = before.target
    person = await target.browser("alice")
    for client in (before.agent.client_id, before.kept.client_id):
        page = await person.http.get(target.authorize_url(client, "A" * 43))
        assert "code=" not in page.headers.get("location", "")
        silent = await person.http.get(target.authorize_url(client, "A" * 43, prompt="none"))
        assert "error=consent_required" in silent.headers["location"]
    again = await target.agent(person, client="backend", scope="tools exchange offline_access")  # the twin
    assert (await target.mcp(again, "tools/list")).status_code == 200
    answer = await target.exchange("backend", again.token, audience="github", scope="contents:read")
    assert answer.status_code == 200, answer.text
    fresh = Handle(target, answer.json()["api_base_url"], answer.json()["access_token"])
    assert (await fresh.call(*READ)).status_code == 200


async def test_what_is_made_after_it_works_for_everybody_at_once(before: Before) -> None:
    people = [await before.target.browser(name) for name in ("alice", "mallory")]
    agents = await asyncio.gather(*(before.target.agent(one) for one in people))
    answers: list[httpx2.Response] = [await before.target.mcp(one, "tools/list") for one in agents]
    assert [one.status_code for one in answers] == [200, 200]
