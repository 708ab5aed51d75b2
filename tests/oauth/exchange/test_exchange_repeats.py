"""Exchanges that repeat a recent one: what they save, and that they never use anything that has ended since."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, replace
from itertools import pairwise
from time import monotonic

import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request

from server.oauth import tokens
from server.oauth.clients.authentication import secret_hash
from server.oauth.exchange.recent import question_of
from server.oauth.parameters import parse_parameters
from server.oauth.rules import OAuthError
from server.runtime.recent import KEPT
from tests.conftest import Store
from tests.oauth.rfcs.test_rfc9449 import proof
from tests.support.accounts import open_account
from tests.support.inspection import get_grant, read_events, verify_activity
from tests.support.rooms.exchange_room import ACCESS, READONLY, Caller, ExchangeRoom, exchange_room, refusal_code
from tests.support.rooms.mcp_room import SLACK, Agent
from vault import clients, connections, delegations, grants, users
from vault.records import Connection
from vault.storage.sqlite import VERSIONS, SqliteDatabase
from vault.upstream import Account, TokenAnswer


@dataclass(frozen=True)
class Scene:
    """A client that gets a person's Slack token, and the objects involved."""

    place: ExchangeRoom
    caller: Caller
    agent: Agent
    connection: Connection

    async def exchange(self, **more: str | None) -> httpx2.Response:
        """Send the same request, except for the given parameters."""
        token = more.pop("subject_token", None) or self.agent.token
        form = self.place.form(self.caller, token, **{"scope": "chat:write", **more})
        return await self.place.http.post("/token", data=form)

    @property
    def ids(self) -> dict[str, str]:
        principal = self.agent.principal
        return {
            "user_id": principal.user_id,
            "client_id": principal.client_id,
            "connection_id": self.connection.id,
        }


async def scene(place: ExchangeRoom, **metadata: object) -> Scene:
    caller = await place.caller(**({"release": {"slack": "full"}} | metadata))
    person = f"person-{len(await users.list_users(place.deployment.database))}"
    agent = await place.agent(caller, person)
    return Scene(place, caller, agent, await place.slack(agent))


@contextlib.contextmanager
def reads(place: ExchangeRoom) -> Generator[list[str]]:
    """The statements of the connection that looks up rows by key (SQLite)."""
    database, found = place.deployment.database, list[str]()
    assert isinstance(database, SqliteDatabase)
    here = database._here  # pyright: ignore[reportPrivateUsage] -- nothing else tells how often is read
    here.set_trace_callback(found.append)
    try:
        yield found
    finally:
        here.set_trace_callback(None)


def are_repeating(statements: list[str]) -> bool:
    """Whether these statements belong to a request that got a repeated answer."""
    rest = [one for one in statements if one not in VERSIONS]
    return set(VERSIONS) <= set(statements) and len(rest) <= 1 and all("client_created_at" in one for one in rest)


async def is_repeated(one: Scene, **more: str | None) -> bool:
    """Whether the request got a repeated answer, after checking with the database."""
    with reads(one.place) as found:
        answer = await one.exchange(**more)
    assert answer.status_code == 200, answer.text
    assert found, "whatever is answered, the database was asked"
    return are_repeating(found)


async def repeats(one: Scene, **more: str | None) -> int:
    """Ask until the answer is repeated, normally at once, unless all were just forgotten; returns how often."""
    for count in range(1, 4):
        if await is_repeated(one, **more):
            return count
    raise AssertionError("this request is never repeated")


@pytest.mark.parametrize(
    ("more", "narrowing"),
    [
        ({}, "none"),
        ({"scope": None}, "upstream"),
        ({"account": "its label"}, "none"),
        ({"requested_token_type": ACCESS}, "none"),
        ({"audience": "google", "scope": READONLY}, "upstream"),
        ({"audience": "google-calendar", "scope": None}, "upstream"),
    ],
)
async def test_a_repeated_exchange_reads_once_answers_the_same_and_leaves_an_event_of_its_own(
    place: ExchangeRoom, more: dict[str, str | None], narrowing: str
) -> None:
    one = await scene(place)
    await place.google(one.agent)
    more |= {"account": one.connection.label} if "account" in more else {}
    with reads(place) as found:
        first = await one.exchange(**more)
    assert not are_repeating(found), first.text
    assert first.json()["narrowing"] == narrowing, first.text
    count = await repeats(one, **more)
    again = await one.exchange(**more)
    assert again.json() | {"expires_in": 0} == first.json() | {"expires_in": 0}
    assert abs(again.json()["expires_in"] - first.json()["expires_in"]) < KEPT
    changing = {"date", "content-length", "x-request-id"}
    assert {k: v for k, v in again.headers.items() if k not in changing} == {
        k: v for k, v in first.headers.items() if k not in changing
    }
    events = [e for e in await place.events("token.released") if e.client_id == one.caller.client.id]
    assert len(events) == count + 2
    assert len({e.details["request_id"] for e in events}) == len(events)
    alike = [{name: value for name, value in e.details.items() if name != "request_id"} for e in events]
    assert all(one == alike[0] for one in alike)
    assert len({(e.kind, e.outcome, e.user_id, e.connection_id) for e in events}) == 1
    await verify_activity(place.deployment.database)


async def test_all_of_it_is_read_again_once_somebody_committed_anything(place: ExchangeRoom) -> None:
    one = await scene(place)
    seen: list[list[str]] = []
    for _ in range(5):
        with reads(place) as found:
            assert (await one.exchange()).status_code == 200  # each of these commits an event
        seen.append(found)
    assert any(len(found) == 3 and "client_created_at" in found[-1] for found in seen)
    assert not any(len(one) == len(after) == 2 for one, after in pairwise(seen)), "an event went by unseen"


async def test_the_lifetime_that_is_left_is_said_each_time(place: ExchangeRoom) -> None:
    one = await scene(place)
    first = (await one.exchange()).json()["expires_in"]
    place.deployment.database.clock_offset += 7
    try:
        assert await repeats(one)
        assert (await one.exchange()).json()["expires_in"] <= first - 7
    finally:
        place.deployment.database.clock_offset -= 7


async def test_another_subject_token_of_the_same_grant_is_verified_and_gets_the_same(place: ExchangeRoom) -> None:
    one = await scene(place)
    first = (await one.exchange()).json()
    found = await get_grant(place.deployment.database, one.agent.principal.grant_id)
    assert found is not None
    minting = {"scopes": found.scopes, "audience": found.resource}
    other, _ = tokens.mint(place.deployment, found, now=place.now(), **minting)
    assert await repeats(one, subject_token=other)
    assert (await one.exchange(subject_token=other)).json()["access_token"] == first["access_token"]
    head, body, signature = other.split(".")
    bent = signature[:-10] + ("A" * 8 if signature[-10:-2] != "A" * 8 else "B" * 8) + signature[-2:]
    assert refusal_code(await one.exchange(subject_token=f"{head}.{body}.{bent}")) == "invalid_request"
    old, _ = tokens.mint(place.deployment, found, now=place.now(), expires_at=place.now() + 4, **minting)
    assert refusal_code(await one.exchange(subject_token=old)) == "invalid_request"
    narrow, _ = tokens.mint(
        place.deployment, found, now=place.now(), scopes=frozenset({"tools"}), audience=found.resource
    )
    assert refusal_code(await one.exchange(subject_token=narrow)) == "invalid_request", "it lacks the scope exchange"


async def test_two_people_of_one_client_do_not_get_each_others_token(place: ExchangeRoom) -> None:
    one = await scene(place)
    agent = await place.agent(one.caller, "somebody-else")
    other = replace(one, agent=agent, connection=await place.slack(agent, account="bob"))
    first, second = (await one.exchange()).json(), (await other.exchange()).json()
    assert first["access_token"] != second["access_token"]
    for scene_of, content in ((one, first), (other, second)):
        assert await repeats(scene_of)
        assert (await scene_of.exchange()).json()["access_token"] == content["access_token"]


async def test_a_narrow_token_repeats_too(place: ExchangeRoom) -> None:
    one = await scene(place)
    await place.google(one.agent)
    wanted = {"audience": "google", "scope": READONLY}
    first = (await one.exchange(**wanted)).json()
    assert first["narrowing"] == "upstream"
    assert await repeats(one, **wanted)
    assert (await one.exchange(**wanted)).json()["access_token"] == first["access_token"]


async def test_a_request_that_differs_in_anything_goes_its_own_way(place: ExchangeRoom) -> None:
    one = await scene(place)
    assert (await one.exchange()).status_code == 200
    assert await repeats(one)
    assert refusal_code(await one.exchange(client_secret="t" * 43)) == "invalid_client"
    assert refusal_code(await one.exchange(scope="chat:write nothing")) == "invalid_scope"
    assert refusal_code(await one.exchange(actor_token=one.agent.token)) == "invalid_request"
    assert await repeats(one)
    proved = {"DPoP": proof(place, "POST", "/token")}
    assert (await place.exchange(one.caller, one.agent.token, scope="chat:write", headers=proved)).status_code == 200
    again = await place.exchange(one.caller, one.agent.token, scope="chat:write", headers=proved)
    assert refusal_code(again) == "invalid_dpop_proof", "a proof counts once"
    own = {"Origin": "https://app.example"}
    page = await place.exchange(one.caller, one.agent.token, scope="chat:write", headers=own)
    assert page.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in (await one.exchange()).headers


async def test_the_secret_in_the_header_repeats_too_and_counts(place: ExchangeRoom) -> None:
    one = await scene(place)
    form = place.form(one.caller, one.agent.token, scope="chat:write", client_id=None, client_secret=None)

    async def ask(secret: str) -> httpx2.Response:
        word = base64.b64encode(f"{one.caller.client.id}:{secret}".encode()).decode()
        return await place.http.post("/token", data=form, headers={"Authorization": f"Basic {word}"})

    right, repeated = one.caller.credentials["client_secret"], list[bool]()
    for _ in range(4):
        with reads(place) as found:
            assert (await ask(right)).json()["narrowing"] == "none"
        repeated.append(are_repeating(found))
    assert any(repeated[1:])
    assert refusal_code(await ask("t" * 43)) == "invalid_client"


# Handles, answers for other parties, and answers that last a minute are never kept.


@pytest.mark.parametrize("asked", [{"release": {}}, {"release": {"slack": "proxy"}}])
async def test_a_handle_is_a_new_one_each_time(place: ExchangeRoom, asked: dict[str, object]) -> None:
    one = await scene(place, **asked)
    values = {(await one.exchange()).json()["access_token"] for _ in range(3)}
    assert len(values) == 3
    assert all(value.startswith("tvp_") for value in values)


async def test_an_audience_that_is_an_address_is_looked_up_each_time(place: ExchangeRoom) -> None:
    one = await scene(place)
    address = place.deployment.catalog.provider("slack").apis["web"]
    for _ in range(3):
        assert not await is_repeated(one, audience=address)
    assert not await is_repeated(one)
    assert await repeats(one)


async def test_kept_answers_are_decided_again_after_seconds(place: ExchangeRoom) -> None:
    one = await scene(place)
    assert await repeats(one)
    place.deployment.database.clock_offset += KEPT
    try:
        assert not await is_repeated(one)
        assert await repeats(one)
    finally:
        place.deployment.database.clock_offset -= KEPT


async def test_what_is_asked_for_once_is_not_kept(place: ExchangeRoom) -> None:
    one = await scene(place)
    assert not await is_repeated(one)
    assert not await is_repeated(one), "from the second time on"
    assert await repeats(one)


# What ends or changes between two equal requests

Change = Callable[[Scene], Awaitable[object]]


async def revoke_grant(one: Scene) -> object:
    async with one.place.deployment.transaction() as transaction:
        grant_id = one.agent.principal.grant_id
        return await grants.revoke_grant(transaction, grant_id, reason="test", now=one.place.now())


async def remove_client(one: Scene) -> object:
    async with one.place.deployment.transaction() as transaction:
        return await clients.remove_client(transaction, one.caller.client.id, now=one.place.now())


async def disable_user(one: Scene) -> object:
    async with one.place.deployment.transaction() as transaction:
        return await users.disable_user(transaction, one.agent.principal.user_id, now=one.place.now())


async def stop_agents(one: Scene) -> object:
    async with one.place.deployment.transaction() as transaction:
        user_id = one.agent.principal.user_id
        now = one.place.now()
        return await users.stop_agents(transaction, user_id, by="https://id.example", at=now, now=now)


async def disconnect(one: Scene) -> object:
    deployment = one.place.deployment
    async with deployment.transaction() as transaction:
        return await connections.disconnect(transaction, deployment.keys, one.connection, now=one.place.now())


async def revoke_delegation(one: Scene) -> object:
    async with one.place.deployment.transaction() as transaction:
        return await delegations.revoke(transaction, **one.ids, now=one.place.now())


async def narrow_delegation(one: Scene) -> object:
    return await one.place.room.allow(one.agent, one.connection, frozenset({"channels:read"}))


async def ask_each_time(one: Scene) -> object:
    async with one.place.deployment.transaction() as transaction:
        asked = frozenset({"chat:write"})
        return await delegations.set_ask(transaction, **one.ids, ask=asked, now=one.place.now())


async def ask_about_the_rest(one: Scene) -> object:
    async with one.place.deployment.transaction() as transaction:
        asked = frozenset({"channels:read"})
        return await delegations.set_ask(transaction, **one.ids, ask=asked, now=one.place.now())


async def change_secret(one: Scene) -> object:
    return await update(one, secret_hash=secret_hash("n" * 43))


async def hold_to_handles(one: Scene) -> object:
    return await update(one, metadata={"release": {"slack": "proxy"}})


async def take_the_grant_type(one: Scene) -> object:
    return await update(one, grant_types=frozenset({"authorization_code"}))


async def need_proofs(one: Scene) -> object:
    return await update(one, metadata={"release": {"slack": "full"}, "dpop_bound_access_tokens": True})


async def update(one: Scene, **changes: object) -> bool:
    async with one.place.deployment.transaction() as transaction:
        return await clients.update_client(transaction, replace(one.caller.client, **changes))


async def connect_another(one: Scene) -> object:
    return await one.place.slack(one.agent, account="bob")


async def destroy_key(one: Scene) -> object:
    deployment = one.place.deployment
    async with deployment.transaction() as transaction:
        return await deployment.keys.destroy_user_key(transaction, one.agent.principal.user_id)


REFUSED: dict[Change, str] = {
    revoke_grant: "invalid_request",
    remove_client: "invalid_client",
    disable_user: "invalid_request",
    stop_agents: "invalid_request",
    disconnect: "invalid_target",
    revoke_delegation: "access_denied",
    narrow_delegation: "invalid_scope",
    ask_each_time: "authorization_pending",
    change_secret: "invalid_client",
    take_the_grant_type: "unauthorized_client",
    need_proofs: "invalid_dpop_proof",
    connect_another: "invalid_target",
    destroy_key: "server_error",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
async def test_what_ended_between_two_equal_requests_is_not_outlived(place: ExchangeRoom, change: Change) -> None:
    one = await scene(place)
    assert (await one.exchange()).status_code == 200
    assert await repeats(one)  # where nothing has changed, the same request succeeds
    await change(one)
    assert refusal_code(await one.exchange()) == REFUSED[change]


@pytest.mark.parametrize("change", [hold_to_handles, ask_about_the_rest], ids=lambda change: change.__name__)
async def test_a_token_that_may_not_go_out_any_more_does_not(place: ExchangeRoom, change: Change) -> None:
    one = await scene(place)
    for _ in range(2):
        assert (await one.exchange()).json()["narrowing"] == "none"
    await change(one)
    for _ in range(2):
        assert (await one.exchange()).json()["access_token"].startswith("tvp_")


async def test_another_token_of_the_account_goes_out_at_once(place: ExchangeRoom) -> None:
    one = await scene(place)
    assert (await one.exchange()).status_code == 200
    assert await repeats(one)
    await connect_again(one, token="xoxp-new", lifetime=43200)
    assert (await one.exchange()).json()["access_token"] == "xoxp-new"


async def connect_again(one: Scene, *, token: str, lifetime: int) -> None:
    deployment = one.place.deployment
    async with deployment.transaction() as transaction:
        await open_account(
            transaction,
            deployment,
            one.agent.principal.user_id,
            "slack",
            TokenAnswer(token, "xoxe-new", SLACK, lifetime, Account(one.connection.account, "again")),
        )


async def test_an_ageing_token_is_decided_about_anew_and_its_successor_requested(
    place: ExchangeRoom,
) -> None:
    one, database = await scene(place), place.deployment.database
    await connect_again(one, token="xoxp-ageing", lifetime=600)  # ages from the 540th second on
    for seconds, repeats_then in ((490, True), (541, False)):
        database.clock_offset += seconds
        try:
            # only the first of an aging token: the successor that it requests isn't to be had, which ends the account
            found = [await is_repeated(one) for _ in range(4 if repeats_then else 1)]
            timers = len(place.deployment.vault.tasks.timers)
        finally:
            database.clock_offset -= seconds
        assert any(found) is repeats_then
        assert timers or not repeats_then


@pytest.mark.parametrize("ends", ["delegation", "subject", "token"])
async def test_an_end_that_comes_by_itself_is_not_outlived(place: ExchangeRoom, ends: str) -> None:
    one, database = await scene(place), place.deployment.database
    token = one.agent.token
    if ends == "delegation":
        async with place.deployment.transaction() as transaction:
            await delegations.allow(transaction, **one.ids, scopes=SLACK, expires_at=place.now() + 6, now=place.now())
    elif ends == "token":
        await connect_again(one, token="xoxp-short", lifetime=6)
    else:
        found = await get_grant(database, one.agent.principal.grant_id)
        assert found is not None
        minting = {"scopes": found.scopes, "audience": found.resource, "expires_at": place.now() + 11}
        token, _ = tokens.mint(place.deployment, found, now=place.now(), **minting)
    assert (await one.exchange(subject_token=token)).status_code == 200
    assert await repeats(one, subject_token=token)
    database.clock_offset += 7
    try:
        answer = await one.exchange(subject_token=token)
    finally:
        database.clock_offset -= 7
    assert (
        refusal_code(answer)
        == {"delegation": "access_denied", "subject": "invalid_request", "token": "invalid_target"}[ends]
    )


async def test_on_each_database_a_revocation_of_another_process_counts_at_once(store: Store) -> None:
    async with exchange_room(store.data, database_url=store.url) as place:
        one = await scene(place)
        for _ in range(3):
            assert (await one.exchange()).json()["narrowing"] == "none"
        other = await store.open()
        try:
            async with other.transaction() as transaction:
                await grants.revoke_grant(transaction, one.agent.principal.grant_id, reason="test", now=place.now())
        finally:
            await other.close()
        assert refusal_code(await one.exchange()) == "invalid_request"
        events = await read_events(place.deployment)
        assert sum(e.kind == "token.released" for e in events) == 3


async def test_repeated_exchanges_count_as_requests_for_tokens(place: ExchangeRoom) -> None:
    one, other = await scene(place), await scene(place)
    await repeats(one)
    user_id, client_id = one.ids["user_id"], one.ids["client_id"]
    while not place.deployment.token_requests.spend(user_id, client_id, now=monotonic() + 600):
        pass
    assert (await one.exchange()).status_code == 429
    assert (await other.exchange()).status_code == 200


# What counts as the same request

_NAMES = st.sampled_from(["subject_token", "a_subject_token", "subject%5Ftoken", "scope", "client_id", "x", ""])
_VALUES = st.sampled_from(["aaaa.bbbb.cccc", "dddd.eeee.ffff", "a%62", "a+b", "", "\0", "é"])
_BODIES = st.lists(st.tuples(_NAMES, _VALUES), max_size=5).map(lambda pairs: "&".join(f"{n}={v}" for n, v in pairs))


def question_digest(body: str, **headers: str) -> bytes | None:
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    found = question_of(Request({"type": "http", "headers": fields}), body.encode())
    return None if found is None else found.digest


def is_plain(body: str) -> bool:
    """Whether its first subject token, exactly as written, can be a token."""
    found = question_of(Request({"type": "http", "headers": []}), body.encode())
    return found is not None and re.fullmatch(r"[A-Za-z0-9._-]+", found.subject_token) is not None


def rest(body: str) -> dict[str, str] | None:
    """The parameters other than the subject token; None if they are refused."""
    try:
        found = parse_parameters(body)
        found.refuse_repeated()
    except OAuthError:
        return None
    return {name: value for name, value in found.values.items() if name != "subject_token"}


@given(_BODIES, _BODIES)
@example("a_subject_token=aaaa.bbbb.cccc&subject_token=x", "a_subject_token=dddd.eeee.ffff&subject_token=x")
def test_requests_that_count_as_one_differ_in_the_subject_token_alone(one: str, other: str) -> None:
    if is_plain(one) and is_plain(other) and question_digest(one) == question_digest(other) and rest(one) is not None:
        assert rest(one) == rest(other)


def test_headers_that_say_who_asks_are_part_of_the_request() -> None:
    body = "a=b&subject_token=aaaa.bbbb.cccc"
    plain = question_digest(body)
    assert plain is not None
    assert question_digest(body.replace("aaaa", "dddd")) == plain
    assert question_digest(body, accept="*/*") == plain
    assert question_digest(body, authorization="Basic eA==") not in {plain, None}
    assert question_digest(body, dpop="x") is None
    assert question_digest(body, origin="https://app.example") is None
    assert question_digest("a=b") is None
