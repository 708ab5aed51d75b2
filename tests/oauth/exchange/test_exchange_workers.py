"""Workers, clients that name the subject themselves: one use, one minute, a reason, allowed addresses and lists."""

from __future__ import annotations

from dataclasses import replace

import httpx2
import pytest
from joserfc.jwk import ECKey

from server.oauth.exchange.workers import WorkerRules, rules_of
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.rooms.exchange_room import JWT, READONLY, Caller, ExchangeRoom, refusal_code
from tests.support.rooms.mcp_room import SLACK, Agent
from vault import clients, connections, grants, handles, replay, users
from vault.exchange.exchange import thumbprint
from vault.records import ClientKind, Connection, User

KEY = ECKey.generate_key("P-256", parameters={"kid": "worker"})
OTHER = ECKey.generate_key("P-256", parameters={"kid": "worker"})
JWKS = {"keys": [KEY.as_dict(private=False)]}
HERE = ["127.0.0.1", "::1"]


async def worker(place: ExchangeRoom, **changes: object) -> Caller:
    """A worker for Slack; `changes` replace its lists."""
    rules = {"addresses": HERE, "connections": ["slack"], "scopes": ["chat:write", "channels:read"]} | changes
    return await place.caller(grant_types=("urn:ietf:params:oauth:grant-type:token-exchange",), jwks=JWKS, worker=rules)


async def someone(place: ExchangeRoom, caller: Caller, **options: object) -> tuple[User, Connection, Agent]:
    """A person for this test only who lets the worker use a Slack account."""
    user = await place.user(f"person-{len(await users.list_users(place.deployment.database))}")
    agent = await place.agent(caller, user.name)  # only to connect the account and delegate it
    connection = await place.slack(agent, **options)
    async with place.deployment.transaction() as transaction:
        await grants.revoke_grant(transaction, agent.principal.grant_id, reason="test", now=place.now())
    return user, connection, agent


async def ask(place: ExchangeRoom, caller: Caller, token: str, **more: str | None) -> httpx2.Response:
    return await place.exchange(caller, token, kind=JWT, **({"scope": "chat:write"} | more))


async def test_a_worker_acts_for_the_person_it_names_and_its_reason_is_in_the_activity(place: ExchangeRoom) -> None:
    caller = await worker(place)
    user, connection, _ = await someone(place, caller)
    answer = await ask(place, caller, place.worker_token(caller, user, key=KEY))
    assert answer.status_code == 200, answer.text
    found = await handles.find(place.deployment.database, answer.json()["access_token"], now=place.now())
    assert (found.principal.user_id, found.connection_id) == (user.id, connection.id)
    assert found.principal.actors == (caller.client.id,)
    assert answer.json()["expires_in"] == 300
    (event,) = [one for one in await place.events("handle.issued") if one.client_id == caller.client.id]
    assert event.details["reason"] == "nightly report"
    assert event.details["token_thumbprint"] == thumbprint(answer.json()["access_token"])
    assert event.user_id == user.id
    wider = place.worker_token(caller, user, key=KEY, reason="wants too much")
    assert (
        refusal_code(await ask(place, caller, wider, scope="channels:read chat:write channels:history"))
        == "invalid_scope"
    )
    # the grant is created only once
    assert (await ask(place, caller, place.worker_token(caller, user, key=KEY))).status_code == 200
    (derived,) = [one for one in await place.events("grant.derived") if one.client_id == caller.client.id]
    assert (derived.details["resource"], derived.details["scopes"]) == (f"{place.url}/mcp", ["exchange"])


async def test_of_a_token_that_never_ends_it_is_said_when_to_ask_again(place: ExchangeRoom) -> None:
    caller = await worker(place)
    released = replace(caller.client, metadata={**caller.client.metadata, "release": {"slack": "full"}})
    async with place.deployment.transaction() as transaction:
        assert await clients.update_client(transaction, released)
    for expires_in, said in ((None, 300), (100, 100)):
        user, connection, _ = await someone(place, caller)
        async with place.deployment.transaction() as transaction:
            await transaction.execute(
                "update connections set access_expires_at = :at where id = :id",
                {"id": connection.id, "at": None if expires_in is None else place.now() + expires_in},
            )
        content = (await ask(place, caller, place.worker_token(caller, user, key=KEY))).json()
        assert content["narrowing"] == "none"
        assert said - 5 <= content["expires_in"] <= said


@pytest.mark.requirement("S-110")
@pytest.mark.parametrize(
    "claims",
    [
        {"jti": None},
        {"jti": 7},
        {"jti": ""},
        {"jti": "x" * 257},
        {"reason": None},
        {"reason": " "},
        {"reason": "x" * 257},
        {"iat": None},
        {"iat": -120},
        {"iat": +120},
        {"exp": -1},
        {"exp": 600},
        {"exp": "soon"},
        {"aud": "https://other.example"},
        {"aud": None},
        {"sub": "nobody"},
        {"sub": None},
        {"sub": 1},
    ],
    ids=str,
)
async def test_a_worker_token_that_lacks_something_is_refused(place: ExchangeRoom, claims: dict[str, object]) -> None:
    caller = await worker(place)
    user, _, _ = await someone(place, caller)
    sent = {
        name: place.now() + value if name in {"iat", "exp"} and isinstance(value, int) else value
        for name, value in claims.items()
    }
    if claims == {"iat": -120}:
        sent["exp"] = place.now() + 30
    token = place.worker_token(caller, user, key=KEY, **sent)
    assert refusal_code(await ask(place, caller, token)) == "invalid_request"
    (event,) = [one for one in await place.events("worker.refused") if one.client_id == caller.client.id]
    assert event.details["reason"] not in {"", "invalid_request"}, "which check refused it"
    assert (await ask(place, caller, place.worker_token(caller, user, key=KEY, reason="x" * 256))).status_code == 200


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"iat": -60}, 200),
        ({"iat": -61}, 400),
        ({"iat": 30}, 200),
        ({"iat": 31}, 400),
        ({"iat": -10, "exp": 1}, 200),
        ({"iat": -10, "exp": 0}, 400),
        ({"iat": 0, "exp": 60}, 200),
        ({"iat": 0, "exp": 61}, 400),
    ],
    ids=str,
)
async def test_a_worker_token_counts_for_sixty_seconds(
    place: ExchangeRoom, claims: dict[str, int], status: int
) -> None:
    caller = await worker(place)
    user, _, _ = await someone(place, caller)
    with stopped_clock(place.deployment.database) as now:
        times = {name: now + value for name, value in claims.items()}
        token = place.worker_token(caller, user, key=KEY, **({"exp": None} | times))
        assert (await ask(place, caller, token)).status_code == status


@pytest.mark.requirement("S-110")
async def test_a_worker_token_counts_once_also_for_many_at_the_same_time(place: ExchangeRoom) -> None:
    import asyncio

    caller = await worker(place)
    user, _, _ = await someone(place, caller)
    token = place.worker_token(caller, user, key=KEY)
    answers = await asyncio.gather(*(ask(place, caller, token) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 7
    assert refusal_code(await ask(place, caller, token)) == "invalid_request"
    fresh = place.worker_token(caller, user, key=KEY)
    assert (await ask(place, caller, fresh)).status_code == 200


@pytest.mark.requirement("S-110")
async def test_a_worker_token_is_refused_again_until_its_last_second(place: ExchangeRoom) -> None:
    caller = await worker(place)
    user, _, _ = await someone(place, caller)
    with stopped_clock(place.deployment.database) as now:
        once, other = (place.worker_token(caller, user, key=KEY, iat=now, exp=None) for _ in range(2))
        assert (await ask(place, caller, once)).status_code == 200
    with stopped_clock(place.deployment.database, at=now + 60):
        assert refusal_code(await ask(place, caller, once)) == "invalid_request"
        assert (await ask(place, caller, other)).status_code == 200


@pytest.mark.parametrize(("seconds", "counts"), [(30, False), (31, True)])
async def test_after_a_restore_a_worker_token_counts_if_it_was_surely_made_later(
    place: ExchangeRoom, seconds: int, *, counts: bool
) -> None:
    """The clock of who made it may be 30 seconds ahead."""
    caller, database = await worker(place), place.deployment.database
    user, _, _ = await someone(place, caller)
    with stopped_clock(database) as now:
        async with database.transaction() as transaction:
            await replay.note_restore(transaction, now=now - 60)
        try:
            token = place.worker_token(caller, user, key=KEY, iat=now - 60 + seconds, exp=None)
            assert (await ask(place, caller, token)).status_code == (200 if counts else 400)
        finally:
            async with database.transaction() as transaction:
                await transaction.execute("delete from seen where purpose = 'restored'", {})


async def test_the_longest_reason_and_number_are_accepted(place: ExchangeRoom) -> None:
    caller = await worker(place)
    user, _, _ = await someone(place, caller)
    longest = place.worker_token(caller, user, key=KEY, reason="x" * 256, jti="x" * 256)
    assert (await ask(place, caller, longest)).status_code == 200
    events = [one for one in await place.events("handle.issued") if one.client_id == caller.client.id]
    assert [(one.details["reason"], one.details["worker_token"]) for one in events] == [("x" * 256, "x" * 64)]
    shortest = place.worker_token(caller, user, key=KEY, reason="x", jti="x")
    assert (await ask(place, caller, shortest)).status_code == 200


async def test_a_reason_may_have_the_name_that_auth0_gives_it(place: ExchangeRoom) -> None:
    caller = await worker(place)
    user, _, _ = await someone(place, caller)
    again = place.worker_token(caller, user, key=KEY, audit_context="by Auth0's name", reason=None)
    assert (await ask(place, caller, again)).status_code == 200


@pytest.mark.requirement("S-110")
@pytest.mark.parametrize(
    "header", [{"alg": "none"}, {"alg": "HS256"}, {"typ": "at+jwt"}, {"kid": "another"}, {"jku": "https://e.example"}]
)
async def test_a_worker_token_needs_the_clients_own_key(place: ExchangeRoom, header: dict[str, object]) -> None:
    caller = await worker(place)
    user, _, _ = await someone(place, caller)
    assert refusal_code(await ask(place, caller, place.worker_token(caller, user, key=OTHER))) == "invalid_request"
    bad = place.worker_token(caller, user, key=KEY, header=header)
    assert refusal_code(await ask(place, caller, bad)) == "invalid_request"
    for good in ({"typ": None}, {"typ": "token-vault-req+jwt"}, {"kid": None}):
        token = place.worker_token(caller, user, key=KEY, header=good)
        assert (await ask(place, caller, token)).status_code == 200


async def test_a_client_that_no_operator_made_a_worker_is_none(place: ExchangeRoom) -> None:
    good = await worker(place)
    user, connection, _ = await someone(place, good)
    for kind, rules in ((ClientKind.MANUAL, None), (ClientKind.DYNAMIC, good.client.metadata["worker"])):
        caller = await place.caller(kind=kind, jwks=JWKS, **({} if rules is None else {"worker": rules}))
        await place.room.allow(await place.agent(caller, user.name), connection, SLACK)
        assert refusal_code(await ask(place, caller, place.worker_token(caller, user, key=KEY))) == "invalid_request"
    assert (await ask(place, good, place.worker_token(good, user, key=KEY))).status_code == 200


async def test_one_worker_cannot_use_another_ones_token(place: ExchangeRoom) -> None:
    first, second = await worker(place), await worker(place)
    user, _, _ = await someone(place, first)
    token = place.worker_token(first, user, key=KEY)
    assert refusal_code(await ask(place, second, token)) == "invalid_request"
    assert (await ask(place, first, token)).status_code == 200


@pytest.mark.parametrize("addresses", [["10.0.0.0/8"], [], ["127.0.0.2", "fe80::/10"]])
async def test_a_worker_calls_from_listed_addresses_only(place: ExchangeRoom, addresses: list[str]) -> None:
    caller = await worker(place, addresses=addresses)
    user, _, _ = await someone(place, caller)
    token = place.worker_token(caller, user, key=KEY)
    answer = await ask(place, caller, token)
    assert (answer.status_code, refusal_code(answer)) == (403, "access_denied")
    form = place.form(caller, token, kind=JWT, scope="chat:write")
    forged = {
        "Forwarded": "for=10.0.0.1",
        "X-Forwarded-For": "10.0.0.1",
        "X-Real-IP": "10.0.0.1",
        "Auth0-Forwarded-For": "10.0.0.1",
    }
    assert refusal_code(await place.http.post("/token", data=form, headers=forged)) == "access_denied"
    everywhere = await worker(place, addresses=["127.0.0.0/8", "::1/128"])
    user, _, _ = await someone(place, everywhere)
    assert (await ask(place, everywhere, place.worker_token(everywhere, user, key=KEY))).status_code == 200


def test_an_address_that_is_none_is_nowhere() -> None:
    rules = WorkerRules(("0.0.0.0/0",), limits=None)
    assert rules.admits("192.0.2.1")
    assert rules.admits("::ffff:192.0.2.1")
    assert not rules.admits("unknown")
    assert not rules.admits("2001:db8::1")
    with_host = WorkerRules(("192.0.2.77/24",), limits=None)
    assert [with_host.admits(f"192.0.{third}.1") for third in (2, 3)] == [True, False]


@pytest.mark.requirement("S-112")
async def test_a_worker_reaches_listed_scopes_only(place: ExchangeRoom) -> None:
    caller = await worker(place, scopes=["channels:read"])
    user, _, _ = await someone(place, caller)

    async def ask_for_scope(scope: str | None) -> httpx2.Response:
        return await ask(place, caller, place.worker_token(caller, user, key=KEY), scope=scope)

    answer = await ask_for_scope("chat:write channels:read")
    assert refusal_code(answer) == "invalid_scope"
    assert answer.json()["missing_scope"] == "chat:write"
    assert (await ask_for_scope("channels:read")).json()["scope"] == "channels:read"
    assert (await ask_for_scope(None)).json()["scope"] == "channels:read", "nothing asked means what is listed"
    nothing = await worker(place, scopes=[READONLY])
    user, _, _ = await someone(place, nothing)
    answer = await ask(place, nothing, place.worker_token(nothing, user, key=KEY), scope=None)
    assert refusal_code(answer) == "invalid_scope"


@pytest.mark.requirement("S-116")
async def test_a_worker_reaches_listed_accounts_only(place: ExchangeRoom) -> None:
    stranger = await worker(place)
    user, first, agent = await someone(place, stranger, account="alice")
    second = await place.slack(agent, account="bob")
    caller = await worker(place, connections=[second.id])
    for connection in (first, second):
        await place.room.allow(await place.agent(caller, user.name), connection, SLACK)

    async def ask_for_account(**more: str | None) -> httpx2.Response:
        return await ask(place, caller, place.worker_token(caller, user, key=KEY), **more)

    answer = await ask_for_account()
    assert answer.json()["api_base_url"].split("/")[-2] == second.id
    assert refusal_code(await ask_for_account(account=first.id)) == "invalid_target"
    assert refusal_code(await ask_for_account(audience=first.id)) == "invalid_target"
    assert (await ask_for_account(audience=second.id)).status_code == 200
    assert refusal_code(await ask_for_account(audience="google", scope=READONLY)) in {"invalid_target", "invalid_scope"}


async def test_a_worker_has_nothing_that_the_person_did_not_allow(place: ExchangeRoom) -> None:
    caller = await worker(place)
    user, connection, agent = await someone(place, caller, delegated=frozenset({"channels:read"}))
    answer = await ask(place, caller, place.worker_token(caller, user, key=KEY))
    assert refusal_code(answer) == "invalid_scope"
    assert answer.json()["connect_uri"]
    await place.room.allow(agent, connection, frozenset({"chat:write"}))
    assert (await ask(place, caller, place.worker_token(caller, user, key=KEY))).status_code == 200
    # after a cut-off, everything it held has ended, and it starts over
    from vault import delegations

    async with place.deployment.transaction() as transaction:
        await grants.revoke_client_grants(
            transaction, user_id=user.id, client_id=caller.client.id, reason="cut_off", now=place.now()
        )
        await delegations.revoke_for_client(transaction, user_id=user.id, client_id=caller.client.id, now=place.now())
    assert refusal_code(await ask(place, caller, place.worker_token(caller, user, key=KEY))) == "access_denied"


async def test_a_worker_gets_no_token_of_ours(place: ExchangeRoom) -> None:
    caller = await worker(place)
    user, _, _ = await someone(place, caller)
    answer = await ask(
        place, caller, place.worker_token(caller, user, key=KEY), audience=f"{place.url}/mcp", scope=None
    )
    assert refusal_code(answer) == "invalid_target"


async def test_a_disabled_person_is_out_of_reach(place: ExchangeRoom) -> None:
    caller = await worker(place)
    user, _, _ = await someone(place, caller)
    async with place.deployment.transaction() as transaction:
        await users.disable_user(transaction, user.id, now=place.now())
    assert refusal_code(await ask(place, caller, place.worker_token(caller, user, key=KEY))) == "invalid_request"
    async with place.deployment.transaction() as transaction:
        await users.enable_user(transaction, user.id, now=place.now())
    (connection,) = await connections.list_connections(place.deployment.database, user.id)
    await place.room.allow(await place.agent(caller, user.name), connection, SLACK)
    assert (await ask(place, caller, place.worker_token(caller, user, key=KEY))).status_code == 200


async def test_rules_that_cannot_be_read_allow_nothing(place: ExchangeRoom) -> None:
    caller = await worker(place, addresses="127.0.0.1", scopes=None)
    rules = rules_of(caller.client)
    assert rules is not None
    assert not rules.admits("127.0.0.1")
    assert rules.limits.scopes == frozenset()
