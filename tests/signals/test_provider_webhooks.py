"""Webhooks of providers: each signed as its provider specifies, and only a hint that the provider must confirm."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping

import httpx2
import pytest

from tests.support.doubles.transmitter_double import RISC
from tests.support.rooms.portal_room import accounts_of, someone
from tests.support.rooms.signal_room import SignalRoom
from vault import connections
from vault.records import Connection, User
from vault.refresh import grant_checks
from vault.storage.database import Row
from vault.upstream import Account, TokenAnswer

KEYS = {"github": "github's webhook secret", "slack": "slack's signing secret", "square": "square's signature key"}


def signature(name: str, content: bytes) -> bytes:
    return hmac.digest(KEYS[name].encode(), content, "sha256")


def github(place: SignalRoom, body: Mapping[str, object], **changes: str) -> tuple[bytes, dict[str, str]]:
    raw = json.dumps(body).encode()
    headers = {
        "x-github-event": "github_app_authorization",
        "x-github-delivery": secrets.token_hex(8),
        "x-hub-signature-256": "sha256=" + signature("github", raw).hex(),
    }
    return raw, headers | changes


def slack(place: SignalRoom, body: Mapping[str, object], *, age: int = 0) -> tuple[bytes, dict[str, str]]:
    raw, at = json.dumps(body).encode(), str(place.room.deployment.now() - age)
    signed = "v0=" + signature("slack", f"v0:{at}:".encode() + raw).hex()
    return raw, {"x-slack-request-timestamp": at, "x-slack-signature": signed}


def square(place: SignalRoom, body: Mapping[str, object]) -> tuple[bytes, dict[str, str]]:
    raw = json.dumps(body).encode()
    signed = base64.b64encode(signature("square", b"https://vault.example/webhooks/square" + raw)).decode()
    return raw, {"x-square-hmacsha256-signature": signed}


def revocation_event(account: str, **changes: object) -> dict[str, object]:
    """Slack's event about one member of a workspace."""
    team, _, person = account.partition(":")
    return {
        "type": "event_callback",
        "team_id": team,
        "event_id": f"Ev{secrets.token_hex(6)}",
        "event": {"type": "tokens_revoked", "tokens": {"oauth": [person], "bot": []}},
    } | changes


async def send(place: SignalRoom, name: str, message: tuple[bytes, dict[str, str]]) -> httpx2.Response:
    body, headers = message
    return await place.http.post(f"/webhooks/{name}", content=body, headers=headers)


async def connect_slack(place: SignalRoom, *, account: str = "alice") -> tuple[User, Connection]:
    """A person with a real account at the simulated Slack."""
    user, person, client = await someone(place.room)
    await place.room.connect(person, user, client, account=account)
    (held,) = await accounts_of(place.room, user)
    return user, held


async def state_of(place: SignalRoom, held: Connection) -> str:
    found = await connections.get_connection(place.room.deployment.database, held.id, user_id=held.user_id)
    assert found is not None
    return found.state.value


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.01)


def next_minute(place: SignalRoom) -> None:
    """A connection is checked at most once a minute."""
    place.room.deployment.database.clock_offset += grant_checks.PAUSE + 1


async def test_a_hint_that_the_provider_confirms_is_known_before_the_next_call(place: SignalRoom) -> None:
    _, held = await connect_slack(place, account="carol")
    place.room.simulator.control("revoke_grant", face="slack", account="carol")
    assert (await send(place, "slack", slack(place, revocation_event(held.account)))).status_code == 204

    async def is_known() -> bool:
        return await state_of(place, held) == "needs_reauth"

    await until(is_known)
    kinds = [one.kind for one in await place.room.events() if one.connection_id == held.id]
    assert kinds[-2:] == ["connection.hinted", "connection.needs_reauth"]


async def test_a_hint_that_the_provider_does_not_confirm_ends_nothing(place: SignalRoom) -> None:
    _, held = await connect_slack(place)
    before = await _generation(place, held)
    assert (await send(place, "slack", slack(place, revocation_event(held.account)))).status_code == 204

    async def is_refreshed() -> bool:
        return await _generation(place, held) > before

    await until(is_refreshed)
    assert await state_of(place, held) == "active"


async def _generation(place: SignalRoom, held: Connection) -> int:
    found = await connections.get_connection(place.room.deployment.database, held.id, user_id=held.user_id)
    assert found is not None
    return found.generation


async def _hints(place: SignalRoom, held: Connection) -> int:
    return sum(one.kind == "connection.hinted" and one.connection_id == held.id for one in await place.room.events())


async def store_account(place: SignalRoom, provider: str, account: str) -> Connection:
    """An account with tokens that its provider never issued."""
    user, deployment = await place.room.user(), place.room.deployment
    answer = TokenAnswer("made-up", None, scopes=frozenset({"a"}), account=Account(account, account))
    async with deployment.transaction() as transaction:
        return await connections.open_connection(
            transaction,
            deployment.keys,
            user_id=user.id,
            provider=provider,
            answer=answer,
            asked=frozenset({"a"}),
            policy=deployment.catalog.provider(provider).policy(),
            now=deployment.now(),
        )


async def test_each_provider_names_the_account_in_its_own_way(place: SignalRoom) -> None:
    at_github = await store_account(place, "github", "4711")
    at_square = await store_account(place, "square", "MERCHANT1")
    in_team, elsewhere = await store_account(place, "slack", "T77:U1"), await store_account(place, "slack", "T7:U1")
    assert (
        await send(place, "github", github(place, {"action": "revoked", "sender": {"id": 4711}}))
    ).status_code == 204
    event = {"type": "oauth.authorization.revoked", "merchant_id": "MERCHANT1", "event_id": secrets.token_hex(8)}
    assert (await send(place, "square", square(place, event))).status_code == 204
    gone = revocation_event("T77:U1", event={"type": "app_uninstalled"})
    assert (await send(place, "slack", slack(place, gone))).status_code == 204
    assert [await _hints(place, one) for one in (at_github, at_square, in_team, elsewhere)] == [1, 1, 1, 0]


@pytest.mark.parametrize("name", KEYS)
async def test_a_forged_or_altered_message_is_no_hint(place: SignalRoom, name: str) -> None:
    account = {"github": "815", "slack": "T1:U815", "square": "M815"}[name]
    held = await store_account(place, name, account)
    body: dict[str, object] = {
        "github": {"action": "revoked", "sender": {"id": 815}},
        "slack": revocation_event(account),
        "square": {"type": "oauth.authorization.revoked", "merchant_id": account, "event_id": "e1"},
    }[name]
    make = {"github": github, "slack": slack, "square": square}[name]
    raw, headers = make(place, body)
    signed = next(one for one in headers if "signature" in one)
    for forged in (
        (raw + b" ", headers),
        (raw, {key: value for key, value in headers.items() if key != signed}),
        (raw, headers | {signed: headers[signed][:-2] + "AA"}),
        (raw, headers | {signed: ""}),
    ):
        assert (await send(place, name, forged)).status_code == 401
    assert await _hints(place, held) == 0
    assert (await send(place, name, (raw, headers))).status_code == 204
    assert await _hints(place, held) == 1


@pytest.mark.parametrize("key", ["the new secret", "the old secret", "another secret"])
async def test_two_secrets_count_while_one_replaces_the_other(
    place: SignalRoom, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    account = f"T1:U{secrets.token_hex(4)}"
    held = await store_account(place, "slack-bot", account)
    monkeypatch.setitem(KEYS, "slack", key)
    answer = await send(place, "slack-bot", slack(place, revocation_event(account)))
    is_known = key != "another secret"
    assert answer.status_code == (204 if is_known else 401)
    assert await _hints(place, held) == is_known
    assert (await send(place, "slack-bot", slack(place, revocation_event(account), age=400))).status_code == 401
    body = b"[]"
    at = str(place.room.deployment.now())
    signed = "v0=" + signature("slack", f"v0:{at}:".encode() + body).hex()
    headers = {"x-slack-request-timestamp": at, "x-slack-signature": signed}
    assert (await send(place, "slack-bot", (body, headers))).status_code == (400 if is_known else 401)


async def test_a_secret_that_is_gone_silences_nothing_that_another_signs(
    place: SignalRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = place.room.deployment.settings.signals.providers["slack-bot"]
    monkeypatch.setitem(KEYS, "slack", "the new secret")
    for file, expected in ((settings.previous_secret_file, 204), (settings.secret_file, 503)):
        assert file is not None
        kept = file.read_text(encoding="utf-8")
        file.unlink()
        try:
            answer = await send(place, "slack-bot", slack(place, revocation_event("T9:U9")))
            assert answer.status_code == expected
            assert ("retry-after" in answer.headers) == (expected == 503)
        finally:
            file.write_text(kept, encoding="utf-8")
    assert (await send(place, "slack-bot", slack(place, revocation_event("T9:U9")))).status_code == 204


async def test_a_repeated_message_is_acknowledged_and_counts_once(place: SignalRoom) -> None:
    held = await store_account(place, "square", "M900")
    event = {"type": "oauth.authorization.revoked", "merchant_id": "M900", "event_id": "e900"}
    for _ in range(2):
        assert (await send(place, "square", square(place, event))).status_code == 204
        next_minute(place)
    assert await _hints(place, held) == 1
    assert (await send(place, "square", square(place, event | {"event_id": "e901"}))).status_code == 204
    assert await _hints(place, held) == 2


async def test_a_connection_is_looked_at_once_a_minute_and_no_hint_is_lost(place: SignalRoom) -> None:
    _, held = await connect_slack(place, account="alice")
    vault = place.room.deployment.vault
    before = await _generation(place, held)
    assert (await send(place, "slack", slack(place, revocation_event(held.account)))).status_code == 204

    async def is_refreshed() -> bool:
        return await _generation(place, held) > before and (await _look(place, held))["due_at"] is None

    await until(is_refreshed)
    first = before = await _generation(place, held)
    for _ in range(3):
        assert (await send(place, "slack", slack(place, revocation_event(held.account)))).status_code == 204
    await grant_checks.run_due(vault)
    assert await _generation(place, held) == first
    assert await _hints(place, held) == 2
    next_minute(place)
    await grant_checks.run_due(vault)
    await until(is_refreshed)


async def test_a_person_may_end_a_grant_at_github_twice_in_the_same_words(place: SignalRoom) -> None:
    held, deployment = await store_account(place, "github", "901"), place.room.deployment
    now = deployment.now()
    async with deployment.transaction() as transaction:
        await grant_checks.note(transaction, [grant_checks.HintedConnection(held.id, held.user_id)], now=now)
        await transaction.execute(  # as after a check, so that the next one isn't immediate
            "update looks set asked = 0, due_at = null, looked_at = :later where connection_id = :id",
            {"later": now + 3600, "id": held.id},
        )
    for number in range(1, 4):  # the delivery's ID isn't signed, so a repeat looks the same
        assert (await send(place, "github", github(place, {"action": "revoked", "sender": {"id": 901}}))).is_success
        row = await _look(place, held)
        assert (row["asked"], row["due_at"]) == (number, now + 3600 + grant_checks.PAUSE)


async def _look(place: SignalRoom, held: Connection) -> Row:
    (row,) = await place.room.deployment.database.fetch(
        "select asked, due_at from looks where connection_id = :id", {"id": held.id}
    )
    return row


async def test_an_old_message_of_slack_is_refused_and_its_address_check_is_answered(place: SignalRoom) -> None:
    held = await store_account(place, "slack", "T1:U902")
    assert (await send(place, "slack", slack(place, revocation_event("T1:U902"), age=301))).status_code == 401
    assert (await send(place, "slack", slack(place, revocation_event("T1:U902"), age=-301))).status_code == 401
    assert await _hints(place, held) == 0
    assert (await send(place, "slack", slack(place, revocation_event("T1:U902"), age=299))).status_code == 204
    assert await _hints(place, held) == 1
    answer = await send(place, "slack", slack(place, {"type": "url_verification", "challenge": "abc"}))
    assert answer.json() == {"challenge": "abc"}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("github", {"action": "created", "sender": {"id": 903}}),
        ("github", {"action": "revoked", "sender": {"id": "903"}}),
        ("github", {"action": "revoked"}),
        ("slack", {"team_id": "T1", "event_id": "E1", "event": {"type": "message"}}),
        ("slack", {"team_id": "T1", "event_id": "E2", "event": {"type": "tokens_revoked", "tokens": ["U903"]}}),
        ("square", {"type": "payment.created", "merchant_id": "M903", "event_id": "e903"}),
    ],
)
async def test_other_events_are_acknowledged_and_mean_nothing(
    place: SignalRoom, name: str, body: dict[str, object]
) -> None:
    before = (await place.room.kinds()).count("connection.hinted")
    message = {"github": github, "slack": slack, "square": square}[name](place, body)
    assert (await send(place, name, message)).status_code == 204
    assert (await place.room.kinds()).count("connection.hinted") == before


async def test_only_bounded_messages_of_known_providers_are_read(place: SignalRoom) -> None:
    assert (await send(place, "gitlab", github(place, {}))).status_code == 404
    assert (await send(place, "github", github(place, {"pad": "x" * 300_000}))).status_code == 413
    raw = b"[]"
    headers = {"x-hub-signature-256": "sha256=" + signature("github", raw).hex()}
    assert (await send(place, "github", (raw, headers))).status_code == 400


async def test_a_grant_without_refresh_token_ends_only_if_the_provider_says_so(place: SignalRoom) -> None:
    dead, unclear = await store_account(place, "slack", "T1:U904"), await store_account(place, "slack", "T1:U905")
    place.room.simulator.fault("slack.api.auth.test", "status", status=503, times=2)
    vault = place.room.deployment.vault
    await grant_checks.look(vault, unclear.id)
    assert await state_of(place, unclear) == "active"
    place.room.simulator.control("clear_faults")
    with pytest.raises(Exception, match="Reconnect"):
        await grant_checks.look(vault, dead.id)
    assert await state_of(place, dead) == "needs_reauth"


async def test_events_of_a_transmitter_make_its_providers_accounts_looked_at(place: SignalRoom) -> None:
    held = await store_account(place, "slack", "T1:U906")
    subject = {"format": "iss_sub", "iss": place.transmitter.url, "sub": "T1:U906"}
    other = subject | {"iss": "https://other.example"}
    assert (await place.event(f"{RISC}sessions-revoked", other, name="provider")).status_code == 202
    assert await _hints(place, held) == 0
    known = len(await place.room.events())
    for _ in range(3):
        assert (await place.event(f"{RISC}sessions-revoked", subject, name="provider")).status_code == 202
    kinds = [one.kind for one in (await place.room.events())[known:]]
    assert kinds.count("connection.hinted") == await _hints(place, held) >= 1
    assert kinds.count("connection.hinted") + kinds.count("signal.noted") == 3, "each event leaves a line"
    assert "signal.unmatched" not in kinds


GOOGLE_REVOKED = "https://schemas.openid.net/secevent/oauth/event-type/tokens-revoked"


async def test_google_reports_in_its_older_form_and_its_id_tokens_are_no_events(place: SignalRoom) -> None:
    held = await store_account(place, "google", "1188")
    subject = {"subject_type": "iss-sub", "iss": "https://accounts.google.com/", "sub": "1188"}
    now = place.transmitter.now()
    claims = place.claims(GOOGLE_REVOKED, None, events={GOOGLE_REVOKED: {"subject": subject}}, aud="client-2")
    claims |= {"exp": now + 600}
    id_token = {name: value for name, value in claims.items() if name != "events"} | {"sub": "1188"}
    for refused, header in (
        (id_token, {"typ": None}),
        (id_token, {"typ": "JWT"}),
        (claims | {"aud": "client-3"}, {"typ": None}),
        (claims, {"typ": "at+jwt"}),
    ):
        answer = await place.push(place.transmitter.sign(refused, **header), name="google")
        assert answer.status_code == 400, answer.text
    assert await _hints(place, held) == 0
    assert (await place.push(place.transmitter.sign(claims, typ=None), name="google")).status_code == 202
    assert await _hints(place, held) == 1


@pytest.mark.parametrize("says", ["nothing", "revoked"])
async def test_only_messages_about_grants_are_counted(place: SignalRoom, says: str) -> None:
    database = place.room.deployment.database
    account = secrets.randbelow(10**9)
    body = {"action": "revoked" if says == "revoked" else "other", "sender": {"id": account}}

    async def webhook_counts() -> tuple[int, int]:
        rows = await database.fetch("select spent from limits where bucket = :name", {"name": "60:webhooks:github"})
        seen = await database.fetch("select expires_at from seen where purpose = :name", {"name": "webhook:github"})
        return sum(int(str(row["spent"])) for row in rows), len(seen)

    before = await webhook_counts()
    for _ in range(2):  # with another delivery ID, which isn't signed
        assert (await send(place, "github", github(place, body))).status_code == 204
    spent, seen = await webhook_counts()
    assert (spent - before[0], seen - before[1]) == ((2, 0) if says == "revoked" else (0, 0))


async def test_repeats_of_one_message_shut_out_no_other(place: SignalRoom) -> None:
    """GitHub's messages have nothing that identifies a repeat, and whoever saw one can send it again."""
    one = github(place, {"action": "revoked", "sender": {"id": 4_100_000_001}})
    assert [(await send(place, "github", one)).status_code for _ in range(11)] == [204] * 10 + [429]
    other = github(place, {"action": "revoked", "sender": {"id": 4_100_000_002}})
    assert (await send(place, "github", other)).status_code == 204
