"""Races of endings with running work: a disconnected or disabled party gets nothing more; an approval counts once."""

from __future__ import annotations

import asyncio
import json
import secrets

import httpx2

from tests.attacks.target import PASSWORD, UPSTREAM, Agent, Target, query_of
from tests.attacks.wire.handles import Handle, handle
from tests.support.person import forms_of

POST: dict[str, object] = {"channel": "#general", "text": "hello"}


def link_of(target: Target, answer: httpx2.Response, part: str) -> str:
    """The link to one of our pages in a tool's answer."""
    start = answer.text.index(f"{target.url}/{part}/")
    return answer.text[start:].split('"')[0].split()[0].rstrip(".,)\\")


async def allow_agent(target: Target) -> Agent:
    """An agent of mallory that may post."""
    agent = await target.agent(target.mallory)
    page = await target.mallory.open(link_of(target, await target.call(agent, "slack_post", POST), "connect"))
    page = await target.mallory.submit(page, form="/connect/", button=("decision", "allow"))
    assert page.status_code == 200, page.text[:300]
    answer = await target.call(agent, "slack_post", POST)
    assert is_done(answer), answer.text
    return agent


def is_done(answer: httpx2.Response) -> bool:
    """Whether the tool call succeeded."""
    if answer.status_code != 200:
        return False
    result = answer.json().get("result", {})
    return result.get("isError") is not True and "Posted" in json.dumps(result)


async def test_an_agent_that_is_cut_off_during_its_calls_makes_none_after_it(target: Target) -> None:
    agent = await allow_agent(target)
    racing = [asyncio.ensure_future(target.call(agent, "slack_post", POST)) for _ in range(20)]
    page = await target.mallory.open(f"/agents/{agent.client_id}/cut-off")
    page = await target.mallory.submit(page, form="cut-off")
    assert page.status_code == 200, page.text[:200]
    after = await asyncio.gather(*(target.call(agent, "slack_post", POST) for _ in range(5)))
    assert {one.status_code for one in after} == {401}
    await asyncio.gather(*racing)


async def test_an_account_that_is_disconnected_during_calls_is_not_used_after_it(target: Target) -> None:
    one = await handle(target, "github", "contents:read", person=target.mallory)
    racing = [asyncio.ensure_future(one.call("GET", "/repos/mallory/notes/readme")) for _ in range(10)]
    connection = one.path.split("/")[2]
    page = await target.mallory.open(f"/connections/{connection}/disconnect")
    page = await target.mallory.submit(page, form="/disconnect")
    await asyncio.gather(*racing)
    before = sum(arrival.path.startswith("/rest") for arrival in target.provider.arrivals)
    for _ in range(3):
        answer = await one.call("GET", "/repos/mallory/notes/readme")
        assert answer.status_code in {401, 403}, answer.text
        assert UPSTREAM not in answer.text
    assert sum(arrival.path.startswith("/rest") for arrival in target.provider.arrivals) == before


async def test_one_answer_of_a_provider_is_redeemed_once_of_eight_at_the_same_time(target: Target) -> None:
    person = await target.browser("mallory")
    page = await person.open("/connections/connect?provider=github")
    state = query_of((await person.submit(page, form="/connections/connect")).headers["location"])["state"]
    target.kept["login"] = "mallory"
    code = secrets.token_urlsafe(8)
    await asyncio.gather(*(person.http.get(f"/connect/callback/github?code={code}&state={state}") for _ in range(8)))
    sent = [one for one in target.provider.arrivals if one.path == "/token" and one.form.get("code") == code]
    assert len(sent) == 1


async def test_a_permission_that_was_read_before_a_change_is_not_written_after_it(target: Target) -> None:
    agent = await allow_agent(target)
    page = await target.mallory.open(f"/agents/{agent.client_id}")
    form = next(one for one in forms_of(page.text) if f"/agents/{agent.client_id}/access" in one.action)
    taken = [(name, "off" if name.startswith("level.") else value) for name, value in form.fields]
    headers = {"origin": target.url}

    async def send(fields: list[tuple[str, str]]) -> httpx2.Response:
        body: dict[str, list[str]] = {}
        for name, value in fields:
            body.setdefault(name, []).append(value)
        return await target.mallory.http.post(form.action, data=body, headers=headers)

    assert (await send(taken)).status_code in {200, 303}
    assert not is_done(await target.call(agent, "slack_post", POST))
    stale = await send(form.fields)  # would restore what was just taken away
    answer = await target.call(agent, "slack_post", POST)
    assert stale.status_code == 409
    assert not is_done(answer), answer.text


async def _asking_agent(target: Target) -> Agent:
    """An agent that asks mallory about each call."""
    agent = await allow_agent(target)
    connection = (await target.connection_ids("mallory"))["slack"]
    await target.command("delegations", "ask", agent.client_id, connection, "--user", "mallory", "--tool", "slack_post")
    return agent


async def test_a_yes_is_for_its_arguments_once(target: Target) -> None:
    agent = await _asking_agent(target)
    asked = await target.call(agent, "slack_post", POST)
    assert not is_done(asked)
    page = await target.mallory.open(link_of(target, asked, "approvals"))
    foreign = await target.alice.open(link_of(target, asked, "approvals"))
    assert "hello" not in foreign.text
    assert foreign.status_code >= 400
    page = await target.mallory.submit(page, form="/approvals/", button=("decision", "allow"))
    assert page.status_code == 200, page.text[:300]
    for changed in ({"text": "hello "}, {"text": "something else"}, {"channel": "#random"}):
        assert not is_done(await target.call(agent, "slack_post", POST | changed))
    answers = await asyncio.gather(*(target.call(agent, "slack_post", POST) for _ in range(10)))
    assert sum(is_done(one) for one in answers) == 1, [one.text for one in answers]


async def test_a_person_who_is_disabled_holds_nothing_any_more(target: Target) -> None:
    await target.command("users", "add", "victim", "--password-stdin", feed=PASSWORD + "\n")
    person = await target.browser("victim")
    agent = await target.agent(person)
    consent = await person.open(target.authorize_url(str((await target.register())["client_id"]), "A" * 43))
    client_id = str((await target.register())["client_id"])
    code, verifier = await target.code(client_id, person)
    await target.command("users", "disable", "victim")
    assert (await person.http.get("/connections")).status_code == 303
    assert (await target.mcp(agent, "tools/list")).status_code == 401
    form = {"grant_type": "refresh_token", "client_id": agent.client_id, "refresh_token": agent.refresh or ""}
    assert (await target.token(form)).status_code == 400
    assert (await target.redeem(client_id, code, verifier)).status_code == 400
    decided = await person.submit(consent, form="/consent", button=("decision", "allow"))
    assert "code=" not in decided.headers.get("location", "")
    page = await (await target.browser()).sign_in("victim", PASSWORD)
    assert page.status_code >= 400


async def test_a_handle_ends_when_the_permission_is_taken_away(target: Target) -> None:
    one: Handle = await handle(target, "slack", "chat:write", person=target.mallory)
    client = target.clients["backend"]["client_id"]
    page = await target.mallory.open(f"/agents/{client}/cut-off")
    await target.mallory.submit(page, form="cut-off")
    answer = await one.call("POST", "/chat.postMessage", json={"channel": "C1", "text": "x"})
    assert answer.status_code in {401, 403}, answer.text
