"""About an account that it can't use, an agent gets the same answer over MCP, at /token, and from the proxy."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping

import httpx2
import pytest

from server import errors
from tests.oauth.test_errors import MADE, SECRET
from tests.support.rooms.exchange_room import Caller, ExchangeRoom
from tests.support.rooms.mcp_room import Agent, modern, modern_headers
from vault import delegations
from vault.records import Connection
from vault.refusals import GrantEnded, VaultError
from vault.storage.database import Transaction
from vault.upstream import UpstreamPolicy

SCOPE = "chat:write"
Spoil = Callable[[Transaction, Agent, Connection], Awaitable[object]]


async def _wear_out(transaction: Transaction, agent: Agent, connection: Connection) -> None:
    await transaction.execute("update connections set state = 'needs_reauth' where id = :id", {"id": connection.id})


async def _narrow(transaction: Transaction, agent: Agent, connection: Connection) -> None:
    await transaction.execute("update connections set scopes = 'channels:read' where id = :id", {"id": connection.id})


async def _change_nothing(transaction: Transaction, agent: Agent, connection: Connection) -> None:
    pass


async def _allow_less(transaction: Transaction, agent: Agent, connection: Connection) -> None:
    await delegations.allow(
        transaction,
        user_id=agent.principal.user_id,
        client_id=agent.principal.client_id,
        connection_id=connection.id,
        scopes=frozenset({"channels:read"}),
        now=connection.created_at,
    )


async def _by_tool(place: ExchangeRoom, caller: Caller, agent: Agent, handle: dict[str, str]) -> httpx2.Response:
    message = modern("tools/call", {"name": "slack_post", "arguments": {"channel": "#general", "text": "hello"}})
    headers = modern_headers("tools/call", "slack_post", authorization=f"Bearer {agent.token}")
    return await place.http.post("/mcp", json=message, headers=headers)


async def _by_token(place: ExchangeRoom, caller: Caller, agent: Agent, handle: dict[str, str]) -> httpx2.Response:
    return await place.exchange(caller, agent.token, scope=SCOPE)


async def _by_proxy(place: ExchangeRoom, caller: Caller, agent: Agent, handle: dict[str, str]) -> httpx2.Response:
    headers = {"authorization": f"Bearer {handle['access_token']}"}
    form = {"channel": "#general", "text": "hello"}
    return await place.http.post(f"{handle['api_base_url']}/chat.postMessage", data=form, headers=headers)


DOORS = {"tool": _by_tool, "token": _by_token, "proxy": _by_proxy}


async def refused_at(place: ExchangeRoom, door: str, spoil: Spoil, *, is_allowed: bool) -> tuple[str, Connection]:
    """One surface's whole answer about a spoiled account, to an agent whose permission is or isn't still there."""
    caller = await place.caller()
    agent = await place.agent(caller, f"person-{secrets.token_hex(4)}")
    connection = await place.slack(agent)
    exchanged = await place.exchange(caller, agent.token, scope=SCOPE)
    assert exchanged.status_code == 200, exchanged.text
    handle = exchanged.json()
    assert '"isError":true' not in (good := await DOORS[door](place, caller, agent, handle)).text, good.text  # the twin
    assert good.status_code == 200, good.text
    async with place.deployment.transaction() as transaction:
        await spoil(transaction, agent, connection)
        if not is_allowed:
            assert await delegations.revoke(
                transaction,
                user_id=agent.principal.user_id,
                client_id=agent.principal.client_id,
                connection_id=connection.id,
                now=place.now(),
            )
    answer = await DOORS[door](place, caller, agent, handle)
    if door == "tool":
        assert answer.json()["result"]["isError"], answer.text
    else:
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.json()["connect_uri"]
    return answer.text, connection


@pytest.mark.requirement("S-118")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("spoil", [_change_nothing, _wear_out, _narrow], ids=["only", "worn out", "too narrow"])
async def test_of_an_account_that_it_may_not_use_an_agent_hears_the_same_whatever_its_state(
    place: ExchangeRoom, door: str, spoil: Spoil
) -> None:
    answer, connection = await refused_at(place, door, spoil, is_allowed=False)
    tool = "slack_post" if door == "tool" else "Invoices"
    assert f"Slack is connected, but this agent isn't allowed to use it for {tool} yet." in answer
    for hidden in (connection.label, connection.account, "needs_reauth", "renewed", "no longer", "granted", "ended"):
        assert hidden not in answer, answer
    for hidden in ("connection_required", "invalid_scope", "missing_scope"):
        assert hidden not in answer, answer
    expected = {"tool": "isError", "token": '"reason":"delegation"', "proxy": "delegation_required"}
    assert expected[door] in answer


@pytest.mark.requirement("S-118")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_wear_out, "no longer accepts the connection of"),
        (_narrow, "hasn't granted chat:write"),
        (_allow_less, "but not for chat:write"),
    ],
    ids=["worn out", "too narrow", "allowed less"],
)
async def test_of_an_account_that_it_may_use_an_agent_hears_what_is_wrong(
    place: ExchangeRoom, door: str, spoil: Spoil, told: str
) -> None:
    answer, connection = await refused_at(place, door, spoil, is_allowed=True)
    assert told in answer
    assert connection.label in answer


# An agent that may use one account tries the name of another

BOB = "bob (Sandbox)"


async def try_other_account(place: ExchangeRoom, door: str, name: str) -> str:
    """What an agent is told that may use one account and names another; `ID` stands for the other account's ID."""
    caller = await place.caller()
    agent = await place.agent(caller, f"person-{secrets.token_hex(4)}")
    await place.slack(agent, account="alice")
    private = await place.slack(agent, account="bob", delegated=frozenset())
    name = name.replace("ID", private.id)
    if door == "tool":
        arguments = {"channel": "#general", "text": "hello", "account": name}
        message = modern("tools/call", {"name": "slack_post", "arguments": arguments})
        headers = modern_headers("tools/call", "slack_post", authorization=f"Bearer {agent.token}")
        answer = await place.http.post("/mcp", json=message, headers=headers)
    elif door == "token":
        answer = await place.exchange(caller, agent.token, scope=SCOPE, account=name)
    else:
        handle = (await place.exchange(caller, agent.token, scope=SCOPE)).json()
        host, _, _ = handle["api_base_url"].partition("/proxy/")
        headers = {"authorization": f"Bearer {handle['access_token']}"}
        form = {"channel": "#general", "text": "hello"}
        answer = await place.http.post(f"{host}/proxy/{name}/web/chat.postMessage", data=form, headers=headers)
    own = r"[A-Za-z0-9_-]{43}|[A-Z0-9]{4}-[A-Z0-9]{4}"  # links, which are different in each answer
    return f"{answer.status_code} {re.sub(own, '', answer.text.replace(answer.headers['x-request-id'], ''))}"


@pytest.mark.requirement("S-118")
@pytest.mark.parametrize("door", DOORS)
async def test_of_a_name_that_it_tries_an_agent_does_not_hear_whether_there_is_such_an_account(
    place: ExchangeRoom, door: str
) -> None:
    nobody = await try_other_account(place, door, "nobody")
    assert '"isError":true' in nobody or nobody.startswith("4"), nobody
    for name in (BOB, BOB.upper(), "ID"):
        assert await try_other_account(place, door, name) == nobody
    assert "bob" not in nobody
    if door != "proxy":
        assert "alice" in nobody  # so that the agent can use the right name
        assert "/connect/" in nobody  # so that the person can allow another
        good = await try_other_account(place, door, "ALICE (sandbox)")  # the twin
        assert '"isError":true' not in good
        assert good.startswith("200")


# Every refusal on every surface


class RefusingPolicies(Mapping[str, UpstreamPolicy]):
    """Policies whose lookup makes every exchange fail with one refusal."""

    def __init__(self, refusal: VaultError) -> None:
        self._refusal = refusal

    def __getitem__(self, name: str) -> UpstreamPolicy:
        raise self._refusal

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def make_refusal(kind: type[VaultError], connection: Connection) -> VaultError:
    """One refusal of that kind, about the person's real account if it names one."""
    refusal = MADE[kind][0]()
    refusal.detail = SECRET
    for name, value in {"connection_id": connection.id, "account": connection.account}.items():
        if hasattr(refusal, name):
            setattr(refusal, name, value)
    return refusal


def at_tool(answer: httpx2.Response, refusal: VaultError) -> None:
    wording = errors.wording_of(refusal)
    content = answer.json()
    if wording.form == "away":
        assert answer.status_code == wording.answer.status
        assert content["error"]["message"] == errors.words_of(refusal)
        assert answer.headers["retry-after"] == str(content["error"]["data"]["retry_after"])
        return
    assert answer.status_code == 200
    text = content["result"]["content"][0]["text"]
    assert content["result"]["isError"]
    expected = {"link": "/connect/", "approval": "/approvals/"}.get(wording.form, errors.words_of(refusal))
    assert expected in text, text


def at_token(answer: httpx2.Response, refusal: VaultError) -> None:
    wording = errors.wording_of(refusal)
    # RFC 8693 §2.2.2: if a grant has ended, the subject token was the one that depended on it
    expected = errors.KINDS["invalid_request"] if isinstance(refusal, GrantEnded) else wording.answer
    content = answer.json()
    assert (answer.status_code, content["error"]) == (expected.status, expected.oauth_error)
    assert ("connect_uri" in content) == (wording.form == "link")
    assert wording.sentence in content["error_description"]


def at_proxy(answer: httpx2.Response, refusal: VaultError) -> None:
    wording = errors.wording_of(refusal)
    content = answer.json()
    assert (answer.status_code, content["code"]) == (wording.proxied_status, refusal.code)
    assert ("connect_uri" in content) == (wording.form == "link")
    assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
    if wording.form != "link":
        assert content["title"] in {errors.words_of(refusal), errors.as_sentence(refusal.description)}


JUDGES = {"tool": at_tool, "token": at_token, "proxy": at_proxy}


@pytest.mark.parametrize("door", DOORS)
async def test_every_door_renders_every_refusal_as_the_table_says(place: ExchangeRoom, door: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, f"person-{secrets.token_hex(4)}")
    connection = await place.slack(agent)
    policies = place.deployment.vault.policies
    for kind in errors.TABLE:
        handle = (await place.exchange(caller, agent.token, scope=SCOPE)).json()
        refusal = make_refusal(kind, connection)
        object.__setattr__(place.deployment.vault, "policies", RefusingPolicies(refusal))
        try:
            answer = await DOORS[door](place, caller, agent, handle)
        finally:
            object.__setattr__(place.deployment.vault, "policies", policies)
        JUDGES[door](answer, refusal)
        assert SECRET not in answer.text, kind
        waits = errors.retry_after(refusal) if door != "tool" else None
        if waits is not None:
            assert answer.headers["retry-after"] == str(waits), kind
        assert '"isError":true' not in (good := await DOORS[door](place, caller, agent, handle)).text, kind  # the twin
        assert good.status_code == 200, good.text
