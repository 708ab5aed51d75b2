"""A user name and password that a person enters: exchanged for sessions that are renewed, end, and stay inside."""

from __future__ import annotations

import hashlib
import json
import logging
import tomllib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from providers.credentials.entered_values import SESSION, pack, read_credential
from providers.credentials.placement import authorize_request
from providers.definitions.catalog import ProviderFileRefused, ProviderOverrides, load_catalog, parse_provider
from providers.definitions.model import Provider
from providers.oauth.credential_upstream import CredentialUpstream, LookOutcome
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.outbound.messages import OutboundRequest
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, json_reply, scripted_server
from tests.support.inspection import read_events
from tests.support.rooms.key_room import READ, WRITE, KeyRoom
from tests.support.rooms.portal_room import accounts_of
from tests.support.simulator_apps import make_password
from vault import limits
from vault.records import Connection, User
from vault.storage.database import Transaction
from vault.upkeep import receipts, revocations
from vault.upstream import NotSent, ProbeOutcome, Refusal, RevokeOutcome, Rotation, Silent


@dataclass(frozen=True)
class Exchange:
    """How a service signs in, renews, and signs out according to its documentation: bodies and relevant headers."""

    entered: Mapping[str, str]
    inputs: Mapping[str, str]
    body: Mapping[str, object]
    answer: Mapping[str, object]
    call: Mapping[str, str]
    renewal: Mapping[str, object] | None = None
    renewing: Mapping[str, str] = field(default_factory=dict[str, str])
    end: str = ""
    ending: Mapping[str, object] = field(default_factory=dict[str, object])
    ends_with: Mapping[str, str] = field(default_factory=dict[str, str])


_CLIENT = {"client_id": "admin-cli"}
SERVICES = {
    "keycloak-session": Exchange(
        {"username": "alice", "password": "correct horse", "client_id": "admin-cli", "client_secret": ""},
        {"host": "sso.example.com", "realm": "company"},
        {"grant_type": "password", "scope": "openid", "username": "alice", "password": "correct horse", **_CLIENT},
        {"access_token": "t-1", "refresh_token": "r-1", "expires_in": 300, "token_type": "Bearer"},
        {"authorization": "Bearer t-1"},
        {"grant_type": "refresh_token", "refresh_token": "r-1", **_CLIENT},
        end="POST",
        ending={"refresh_token": "r-1", **_CLIENT},
    ),
    "metabase": Exchange(
        {"username": "alice@example.com", "password": "correct horse"},
        {"host": "bi.example.com"},
        {"username": "alice@example.com", "password": "correct horse"},
        {"id": "t-1"},
        {"x-metabase-session": "t-1"},
        end="DELETE",
        ends_with={"x-metabase-session": "t-1"},
    ),
    "bluesky": Exchange(
        {"handle": "alice.bsky.social", "password": "abcd-efgh-ijkl-mnop"},
        {},
        {"identifier": "alice.bsky.social", "password": "abcd-efgh-ijkl-mnop"},
        {"accessJwt": "t-1", "refreshJwt": "r-1", "handle": "alice.bsky.social", "did": "did:plc:1"},
        {"authorization": "Bearer t-1"},
        {},
        {"authorization": "Bearer r-1"},
        "POST",
        ends_with={"authorization": "Bearer r-1"},
    ),
    "docker-hub": Exchange(
        {"username": "alice", "secret": "dckr_pat_0123456789abcdef0123"},
        {},
        {"identifier": "alice", "secret": "dckr_pat_0123456789abcdef0123"},
        {"access_token": "t-1"},
        {"authorization": "Bearer t-1"},
    ),
}
FILE = """
name = "desk"
title = "Desk"
body = "json"
[credential]
kind = "session"
[credential.fields.name]
title = "User"
secret = false
[credential.fields.word]
title = "Password"
[credential.session.sign_in]
fields = { "login.name" = "{name}", "login.word" = "{word}" }
[credential.session.renew]
headers = { Authorization = "Bearer {refresh_token}" }
[credential.session.sign_out]
method = "DELETE"
headers = { X-Session = "{token}" }
[hosts]
token_url = "https://desk.example/session"
refresh_url = "https://desk.example/renewal"
revoke_url = "https://desk.example/session"
[apis]
main = "https://desk.example/api"
[scopes.read]
title = "Read"
[console]
url = "https://desk.example/password"
"""


@dataclass
class Desk:
    """A service of the file above; each path answers as set in `says`."""

    server: ScriptedServer
    upstream: CredentialUpstream
    says: dict[str, Reply]
    provider: Provider
    outbound: Outbound
    packed: str = json.dumps({"name": "alice", "word": "correct horse", SESSION: "r-1"})

    def signing_out(self, headers: Mapping[str, str]) -> CredentialUpstream:
        """The same service, with these headers for signing out."""
        credential = self.provider.credential
        assert credential is not None
        assert credential.session is not None
        assert credential.session.sign_out is not None
        step = credential.session.sign_out.model_copy(update={"headers": headers})
        session = credential.session.model_copy(update={"sign_out": step})
        changed = {"credential": credential.model_copy(update={"session": session})}
        return CredentialUpstream(self.provider.model_copy(update=changed), self.outbound)


@pytest_asyncio.fixture
async def desk() -> AsyncGenerator[Desk]:
    says: dict[str, Reply] = {}
    async with (
        scripted_server(lambda arrival: says.get(arrival.path, Reply(404))) as server,
        Outbound(AddressPolicy(allow_loopback=True)) as outbound,
    ):
        content = tomllib.loads(FILE.replace("https://desk.example", server.url.replace("http://", "https://")))
        content["identity"] = {"api": "main", "path": "/me", "id": "{id}", "label": "{id}"}
        provider = parse_provider("desk", content)
        places = {"token_url": "session", "revoke_url": "session", "refresh_url": "renewal"}
        hosts = provider.hosts.model_copy(update={name: f"{server.url}/{path}" for name, path in places.items()})
        provider = provider.model_copy(update={"hosts": hosts, "apis": {"main": server.url}})
        yield Desk(server, CredentialUpstream(provider, outbound), says, provider, outbound)


async def signed_in(room: KeyRoom, user: User, provider: str = "mailroom-session") -> tuple[Connection, str]:
    """An account of the user, and the password that they entered."""
    word = make_password(room.simulator, user.name)
    person = await room.signed_in(user)
    return await room.connect_account(user, person, provider, name=user.name, word=word), word


def calls_of(room: KeyRoom, user: User) -> list[object]:
    return [one["call"] for one in room.books() if one["account"] == user.name and one["way"] == "session"]


async def test_a_password_is_exchanged_for_a_session_that_calls_carry(room: KeyRoom) -> None:
    user = await room.user()
    person = await room.signed_in(user)
    word = make_password(room.simulator, user.name)
    refused = await room.enter(
        person, await room.form(person, "mailroom-session"), name=user.name, word="another-password"
    )
    assert "accept this" in refused.text
    assert "another-password" not in refused.text
    assert await accounts_of(room, user) == ()
    connection = await room.connect_account(user, person, "mailroom-session", name=user.name, word=word)
    assert (connection.account, connection.label) == (f"box-{user.name}", f"{user.name}@mailroom.example")
    handle = await room.allow_agent(user, connection, READ)
    assert (await handle.call("GET", "/messages", api="main")).json()["messages"][0]["subject"] == f"For {user.name}"
    assert calls_of(room, user)[-3:] == ["sign_in", "me", "messages"]
    [held] = await accounts_of(room, user)
    assert held.access_expires_at is not None


async def test_a_session_is_renewed_and_else_another_one_follows(room: KeyRoom) -> None:
    user = await room.user()
    connection, _ = await signed_in(room, user)
    handle, keys = await room.allow_agent(user, connection, READ), room.simulator.sandbox.keys
    for _ in range(2):  # the service forgets the access token but keeps the refresh token
        [old] = [one for one, (account, _) in keys.sessions.items() if account == user.name]
        keys.sessions[f"gone-{old}"] = keys.sessions.pop(old)
        assert (await handle.call("GET", "/messages", api="main")).status_code == 200
        assert "renew" in calls_of(room, user)
    signed = calls_of(room, user).count("sign_in")
    assert signed == 1
    keys.sessions.clear()
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    assert calls_of(room, user).count("sign_in") == 2


async def test_an_expired_session_is_renewed_before_a_call(room: KeyRoom) -> None:
    user = await room.user()
    connection, _ = await signed_in(room, user)
    handle = await room.allow_agent(user, connection, READ)
    async with room.deployment.transaction() as transaction:
        await transaction.execute("update connections set access_expires_at = 1 where id = :id", {"id": connection.id})
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    assert calls_of(room, user)[-2:] == ["renew", "messages"]


@pytest.mark.parametrize(
    ("provider", "is_lost", "left", "said"),
    [
        ("mailroom-renewable", True, 1, ("unsupported", "no_probe")),  # signed out by its refresh token
        ("mailroom-session", True, 2, ("unsupported", "session_left")),
        ("mailroom-session", False, 1, None),
    ],
)
async def test_a_session_whose_renewal_was_lost_is_ended_after_its_successor_is_stored(
    room: KeyRoom, provider: str, left: int, said: tuple[str, str] | None, *, is_lost: bool
) -> None:
    user = await room.user()
    connection, _ = await signed_in(room, user, provider)
    handle, deployment = await room.allow_agent(user, connection, READ), room.deployment
    async with deployment.transaction() as transaction:
        await transaction.execute("update connections set access_expires_at = 1 where id = :id", {"id": connection.id})
    if is_lost:
        room.simulator.fault("mailroom.renew", "status", status=500)
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200
    assert calls_of(room, user).count("sign_in") == 1 + is_lost
    room.simulator.control("clear_faults")
    await revocations.run_due(deployment.vault)
    assert sum(account == user.name for account, _ in room.simulator.sandbox.keys.sessions.values()) == left
    found = await receipts.list_of_user(deployment.database, user.id, since=0)
    assert [(one.result, one.reason, one.is_open) for one in found.values()] == (
        [] if said is None else [(*said, False)]
    )
    assert (await handle.call("GET", "/messages", api="main")).status_code == 200  # the successor lives


async def test_an_earlier_session_that_was_renewed_unseen_may_live(desk: Desk) -> None:
    desk.says["/session"] = Reply(401)
    packed, by_renewal = desk.packed, {"Authorization": "Bearer {refresh_token}"}
    assert await desk.upstream.revoke(refresh_token=packed, access_token=None) is RevokeOutcome.SESSION_LEFT
    assert desk.server.arrivals == []
    upstream = desk.signing_out(by_renewal)
    assert await upstream.revoke(refresh_token=packed, access_token=None) is RevokeOutcome.SESSION_LEFT
    assert await upstream.revoke(refresh_token=packed, access_token="t-1") is RevokeOutcome.REVOKED
    desk.says["/session"] = Reply(204)
    assert await upstream.revoke(refresh_token=packed, access_token=None) is RevokeOutcome.REVOKED


@pytest.mark.parametrize("header", ["{token}", "{token} {word}"])
async def test_a_sign_out_reads_a_secret_that_is_kept_elsewhere_only_if_it_names_it(desk: Desk, header: str) -> None:
    desk.says["/session"] = Reply(204)
    packed = json.dumps({"name": "alice", "word": "bao://secret/alice#word", SESSION: "r-1"})
    answer = await desk.signing_out({"X-Session": header}).revoke(refresh_token=packed, access_token="t-1")
    if "word" in header:  # nothing can resolve the reference here
        assert isinstance(answer, NotSent) and answer.lacks_secret
    else:
        assert answer is RevokeOutcome.REVOKED
    assert len(desk.server.arrivals) == ("word" not in header)


@pytest.mark.parametrize("is_changed", [True, False])
async def test_a_changed_password_ends_the_account_with_its_session(room: KeyRoom, *, is_changed: bool) -> None:
    user = await room.user()
    connection, _ = await signed_in(room, user)
    handle, keys = await room.allow_agent(user, connection, READ), room.simulator.sandbox.keys
    keys.sessions.clear()
    if is_changed:
        make_password(room.simulator, user.name)
    answer = await handle.call("GET", "/messages", api="main")
    [held] = await accounts_of(room, user)
    assert (answer.status_code == 200, held.state.value) == (
        (False, "needs_reauth") if is_changed else (True, "active")
    ), answer.text


async def test_a_service_that_does_not_answer_costs_no_account(room: KeyRoom) -> None:
    user = await room.user()
    connection, _ = await signed_in(room, user)
    handle, keys = await room.allow_agent(user, connection, READ), room.simulator.sandbox.keys
    keys.sessions.clear()
    for answers in (True, False):
        keys.sessions.clear()
        before = calls_of(room, user).count("sign_in")
        if not answers:
            room.simulator.fault("mailroom.sign_in", "status", status=500)
        for _ in range(2):  # one attempt; the second call waits, because the service may count failed sign-ins
            answer = await handle.call("GET", "/messages", api="main")
            assert (answer.status_code == 200) is answers, answer.text
        assert calls_of(room, user).count("sign_in") == before + answers
        room.simulator.control("clear_faults")
    [held] = await accounts_of(room, user)
    assert held.state.value == "active"


async def test_disconnecting_signs_out_and_proves_it(room: KeyRoom) -> None:
    user = await room.user()
    connection, _ = await signed_in(room, user)
    person, keys = await room.signed_in(user), room.simulator.sandbox.keys
    other = f"other-{user.name}"
    keys.sessions[other] = user.name, other  # of the person's own browser
    await person.submit(await person.open(f"/connections/{connection.id}/disconnect"), form="/disconnect")
    await room.until_asked(connection.id)
    assert [one for one, (account, _) in keys.sessions.items() if account == user.name] == [other]
    assert calls_of(room, user).count("sign_in") == 1  # the vault doesn't sign in to find out
    receipt = await receipts.get_receipt(room.deployment.database, connection.id)
    assert receipt is not None
    assert (receipt.result, receipt.is_final) == ("verified_dead", True)


@pytest.mark.parametrize(("tried", "is_limited"), [(4, False), (5, True)])
async def test_a_person_tries_out_a_few_passwords_an_hour(room: KeyRoom, tried: int, *, is_limited: bool) -> None:
    user = await room.user()
    word = make_password(room.simulator, user.name)
    person = await room.signed_in(user)
    async with room.deployment.transaction() as transaction:
        assert await spend_sign_ins(room, transaction, f"of:{user.id}", tried)
    page = await room.enter(person, await room.form(person, "mailroom-session"), name=user.name, word=word)
    assert ("Too many" in page.text) is is_limited
    assert len(await accounts_of(room, user)) == (not is_limited)


@pytest.mark.parametrize(("tried", "is_limited"), [(9, False), (10, True)])
async def test_a_user_name_is_tried_out_a_few_times_an_hour_whoever_tries(
    room: KeyRoom, tried: int, *, is_limited: bool
) -> None:
    user = await room.user()
    word = make_password(room.simulator, user.name)
    person = await room.signed_in(user)
    name = hashlib.sha256(json.dumps({"name": user.name}).encode()).hexdigest()
    async with room.deployment.transaction() as transaction:
        assert await spend_sign_ins(room, transaction, f"at:{name}", tried)
    page = await room.enter(person, await room.form(person, "mailroom-session"), name=user.name, word=word)
    assert ("Too many" in page.text) is is_limited
    assert len(await accounts_of(room, user)) == (not is_limited)


async def spend_sign_ins(room: KeyRoom, transaction: Transaction, bucket: str, number: int) -> bool:
    """Use up this many sign-in attempts."""
    bucket, now = f"sign-in:mailroom-session:{bucket}", room.deployment.now()
    return await limits.spend(transaction, bucket, limit=number, window=3600, now=now, cost=number)


async def test_neither_password_nor_session_leaves_the_vault(room: KeyRoom, caplog: pytest.LogCaptureFixture) -> None:
    user = await room.user()
    with caplog.at_level(logging.DEBUG):
        connection, word = await signed_in(room, user)
        handle = await room.allow_agent(user, connection, WRITE)
        [(token, (_, renewal))] = [
            (one, held) for one, held in room.simulator.sandbox.keys.sessions.items() if held[0] == user.name
        ]
        sent = {"to": f"{word} {token} {renewal}"}
        answer = await handle.call("POST", "/messages", api="main", json=sent)
    for secret in (word, token, renewal):
        assert secret not in answer.text
        assert secret not in caplog.text
    assert answer.json()["to"] == " ".join("*" * len(one) for one in (word, token, renewal))
    events = await read_events(room.deployment, user_id=user.id)
    written = json.dumps([dict(one.details) for one in events], default=str)
    assert not [one for one in (word, token, renewal) if one in written]
    refused = await handle.call("GET", "/elsewhere", api="main")
    assert refused.headers["token-vault-refusal"] == "redirect_refused"
    assert room.simulator.books()["trapped"] == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("", None, ""),
        ("credential.session", None, "belongs to kind session"),
        ("credential.session.sign_in.fields", {"login": "{name}"}, "'word' is sent nowhere"),
        ("credential.session.sign_in.fields", {"login": "{word}{token}"}, "{token} isn't a field"),
        ("credential.session.renew.headers", {"Authorization": "{token}"}, "{token} isn't a field"),
        ("credential.session.sign_out.headers", {"X": "{session}"}, "{session} isn't a field"),
        ("credential.session.sign_out", None, "signs out; give both"),
        ("credential.session.renew.headers", {"Authorization": "x"}, "session.renew: names no session"),
        ("credential.session.sign_out.headers", {"X-Session": "x"}, "session.sign_out: names no session"),
        ("credential.session.sign_out.headers", {"X-Session": "{refresh_token}"}, ""),
        ("credential.session.renew", None, "belongs to credential.session.renew"),
        ("hosts.token_url", "", "name where people sign in"),
        ("hosts.token_url", "https://desk.example/{word}", "addresses are no secret"),
        ("hosts.revoke_url", "https://{name}/session", "decides whose host"),
        ("hosts.issuer", "https://desk.example", "hosts.issuer: doesn't work"),
        ("body", "query", "may be logged"),
        ("credential.send", {"headers": {"X-Key": "{word}"}}, "exchanged for a session"),
        ("credential.fields.token", {"title": "Token"}, "rename it"),
        ("client_auth", "none", "doesn't work with credential.kind"),
    ],
)
def test_a_file_that_would_not_work_is_refused(path: str, value: object, said: str) -> None:
    content: dict[str, Any] = tomllib.loads(FILE)
    *way, last = path.split(".")
    inner = content
    for part in way:
        inner = inner[part]
    if path and value is None:
        del inner[last]
    elif path:
        inner[last] = value
    if not said:
        assert parse_provider("desk", content).credential is not None
        return
    with pytest.raises(ProviderFileRefused, match=said.replace("{", r"\{")):
        parse_provider("desk", content)


@pytest.mark.parametrize("name", SERVICES)
async def test_each_service_is_spoken_to_as_its_sources_say(name: str) -> None:
    exchange = SERVICES[name]
    shipped = load_catalog().provider(name)
    account = {"id": 7, "sub": "7", "did": "did:plc:1", "email": "a@example.com", "handle": "alice.bsky.social"}

    def answer(arrival: Arrival) -> Reply:
        return json_reply(exchange.answer if arrival.path in {"/in", "/renew"} else account)

    async with scripted_server(answer) as server, Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        settings = ProviderOverrides(
            token_url=f"{server.url}/in",
            refresh_url=None if shipped.hosts.refresh_url is None else f"{server.url}/renew",
            revoke_url=None if shipped.hosts.revoke_url is None else f"{server.url}/out",
            userinfo_url=f"{server.url}/me" if shipped.identity.url else None,
            apis=dict.fromkeys(shipped.apis, f"{server.url}/api"),
            inputs=exchange.inputs,
        )
        provider = load_catalog(overrides={name: settings}).provider(name)
        assert provider.credential is not None
        values = read_credential(provider.credential, exchange.entered)
        upstream = CredentialUpstream(provider, outbound)
        entered, look = await upstream.enter(pack(provider.credential, values))
        assert (entered.access_token, look.outcome) == ("t-1", LookOutcome.ALIVE)
        sent = server.arrivals[0]
        assert (sent.method, sent.path) == ("POST", "/in")
        assert (sent.json if provider.body == "json" else sent.form) == exchange.body
        request = OutboundRequest("GET", f"{server.url}/api/x")
        made = authorize_request(provider, request, "t-1")
        assert {key.lower(): text for key, text in made.headers.items()} == exchange.call
        assert isinstance(await upstream.refresh(entered.refresh_token or ""), Rotation)
        renewed = server.arrivals[-1]
        body = renewed.json if provider.body == "json" and renewed.body else renewed.form
        assert body == (exchange.body if exchange.renewal is None else exchange.renewal)
        assert {key: renewed.headers[key] for key in exchange.renewing} == exchange.renewing
        ended = await upstream.revoke(refresh_token=entered.refresh_token, access_token="t-1")
        if not exchange.end:
            assert ended is RevokeOutcome.UNSUPPORTED
            return
        assert ended is RevokeOutcome.REVOKED
        last = server.arrivals[-1]
        assert (last.method, last.path, last.form) == (exchange.end, "/out", exchange.ending)
        assert {key: last.headers[key] for key in exchange.ends_with} == exchange.ends_with


@pytest.mark.parametrize(
    ("is_fresh", "is_revoked", "is_renewable", "is_proof"),
    [
        (True, True, True, True),
        (True, False, False, True),
        (True, False, True, False),
        (False, True, True, False),
        (False, False, True, False),
        (False, False, False, False),
    ],
)
async def test_only_a_refusal_that_speaks_for_the_whole_session_proves_its_end(
    desk: Desk, *, is_fresh: bool, is_revoked: bool, is_renewable: bool, is_proof: bool
) -> None:
    desk.says["/me"] = json_reply({}, status=401)
    packed = json.dumps({"name": "alice", "word": "correct horse", **({SESSION: "r-1"} if is_renewable else {})})
    probed = await desk.upstream.probe(
        refresh_token=packed, access_token="t-1", is_fresh=is_fresh, is_revoked=is_revoked
    )
    assert (probed.outcome is ProbeOutcome.DEAD) is is_proof
    revoked = RevokeOutcome.REVOKED if is_revoked else Silent("no answer")
    verdict = receipts.judge(receipts.Evidence(revoked, probed), is_last=False)
    assert (verdict.result is receipts.ReceiptResult.VERIFIED_DEAD) is is_proof
    assert verdict.is_final is (is_proof or is_revoked)


@pytest.mark.parametrize(
    ("reply", "is_over"),
    [
        (json_reply({"errors": {"password": "did not match"}}, status=400), True),
        (Reply(423, b"locked"), True),
        (json_reply({"error": "bad_password"}, status=400), True),
        (Reply(404), False),
        (Reply(408), False),
        (Reply(425), False),
        (Reply(429), False),
        (Reply(500), False),
    ],
)
async def test_a_refused_sign_in_is_not_tried_again(desk: Desk, reply: Reply, *, is_over: bool) -> None:
    desk.says |= {"/renewal": json_reply({}, status=400), "/session": reply}
    outcome = await desk.upstream.refresh(desk.packed)
    assert (isinstance(outcome, Refusal) and outcome.ends_grant) is is_over
    assert [one.path for one in desk.server.arrivals] == ["/renewal", "/session"]
    desk.says["/session"] = json_reply({"access_token": "t-2"})
    assert isinstance(await desk.upstream.refresh(desk.packed), Rotation)


@pytest.mark.parametrize(
    ("status", "told", "wait"), [(429, {}, 60), (429, {"Retry-After": "7"}, 7), (503, {"Retry-After": "7"}, 7)]
)
async def test_a_service_that_asks_for_patience_gets_a_minute_unless_it_says_how_long(
    desk: Desk, status: int, told: Mapping[str, str], wait: int
) -> None:
    desk.says |= {"/renewal": json_reply({}, status=400), "/session": Reply(status, headers=dict(told))}
    for outcome in (
        await desk.upstream.refresh(desk.packed),
        await desk.upstream.revoke(refresh_token=desk.packed, access_token="t-1"),
    ):
        assert isinstance(outcome, NotSent)
        assert (outcome.retry_after, outcome.is_limited) == (wait, status == 429)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [("invalid_grant", RevokeOutcome.REVOKED), ("invalid_request", RevokeOutcome.FAILED)],
)
async def test_a_session_that_is_over_already_counts_as_signed_out(
    desk: Desk, code: str, outcome: RevokeOutcome
) -> None:
    desk.says["/session"] = json_reply({"error": code}, status=400)
    assert await desk.upstream.revoke(refresh_token=desk.packed, access_token="t-1") is outcome
