"""Narrower tokens in an exchange: stored, proved to be narrow; otherwise, the vault limits the full token itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.conftest import Store
from tests.support.doubles.upstream_double import INVALID_CLIENT, LOST_ANSWER, Fault
from tests.support.rooms.vault_room import DRIVE, GOOGLE_SCOPES, READ, WRITE, Room, google, open_room
from vault.exchange.exchange import exchange
from vault.records import Narrowing, Principal
from vault.refresh.mint import MintedToken
from vault.refusals import (
    DelegationRequired,
    ItemRefused,
    TemporarilyUnavailable,
)
from vault.upstream import CredentialKind, Refusal, RotationMode


async def test_a_provider_that_can_narrow_issues_a_token_of_its_own_and_the_grant_stays(room: Room) -> None:
    connection = await room.connect("google")
    token = await room.exchange("google", READ)
    assert room.google.issued[token.value] == {READ}
    assert token.narrowing is Narrowing.UPSTREAM
    assert token.granted == GOOGLE_SCOPES
    facts = await room.row(connection)
    assert facts.scopes == GOOGLE_SCOPES
    whole = await room.exchange("google", READ, WRITE, DRIVE)
    assert room.google.issued[whole.value] == GOOGLE_SCOPES
    assert whole.narrowing is Narrowing.UPSTREAM
    assert len(room.google.sends) == 1


async def test_a_narrow_token_is_kept_until_it_expires(room: Room) -> None:
    await room.connect("google")
    first = await room.exchange("google", READ)
    assert (await room.exchange("google", READ)).value == first.value
    assert (await room.exchange("google", WRITE)).value != first.value
    assert len(room.google.sends) == 2
    room.pass_time(3600)
    assert (await room.exchange("google", READ)).value != first.value


async def test_a_refresh_token_that_comes_with_a_narrow_token_replaces_the_stored_one(store: Store) -> None:
    async with open_room(store, rotation=RotationMode.REVOKES) as room:
        vault = replace(
            room.vault, policies={"slack": replace(google(), provider="slack", rotation=RotationMode.REVOKES)}
        )
        room.vault = vault
        await room.connect("slack", scopes=GOOGLE_SCOPES)
        narrow = await room.exchange("slack", READ)
        assert room.slack.issued[narrow.value] == {READ}
        room.pass_time(3600)
        full = await room.exchange("slack", READ, WRITE, DRIVE)
        assert room.slack.issued[full.value] == GOOGLE_SCOPES
        assert all(family.is_alive for family in room.slack.families)
        assert [send.outcome for send in room.slack.sends] == ["Rotation", "Rotation"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(scopes=GOOGLE_SCOPES),
        Fault(hides_scope=True),
        Fault(scopes=frozenset({WRITE})),
        Fault(scopes=frozenset({"openid"})),
    ],
    ids=["too wide", "says nothing", "another", "too little"],
)
async def test_a_narrow_token_that_does_not_prove_to_be_narrow_is_not_used(room: Room, fault: Fault) -> None:
    connection = await room.connect("google")
    room.google.faults.append(fault)
    for _ in range(2):
        token = await room.exchange("google", READ)
        assert (token.narrowing, token.scopes) == (Narrowing.ENFORCED, {READ})
        assert room.google.issued[token.value] == GOOGLE_SCOPES  # the full token, which never leaves the vault
    assert len(room.google.sends) == 1  # the provider isn't asked again for a while
    (event,) = await room.events("narrowing.failed")
    assert (event.outcome, event.details["asked"]) == ("failed", [READ])
    assert (await room.row(connection)).refresh_sealed is not None
    room.pass_time(601)
    assert room.google.issued[(await room.exchange("google", READ)).value] == {READ}


@pytest.mark.parametrize("everything", [False, True])
async def test_where_the_provider_refuses_to_narrow_the_full_token_serves_enforced(
    room: Room, *, everything: bool
) -> None:
    connection = await room.connect("google", delegated=frozenset({READ}))
    full = await room.row(connection)
    room.google.faults.append(Fault(before=Refusal("invalid_scope", "Bad Request", ends_grant=False)))
    for _ in range(2):  # the first time it is asked, then not for a while
        token = await room.exchange("google", READ, everything=everything)
        assert (token.narrowing, token.scopes) == (Narrowing.ENFORCED, {READ})
        assert room.google.issued[token.value] == GOOGLE_SCOPES
    assert [send.outcome for send in room.google.sends] == ["Refusal"]
    (event,) = await room.events("narrowing.failed")
    assert (event.outcome, event.details["asked"], event.details["reason"]) == ("failed", [READ], "invalid_scope")
    assert event.connection_id == connection.id
    after = await room.row(connection)
    assert (after.state, after.generation, after.refresh_sealed) == (full.state, full.generation, full.refresh_sealed)
    assert after.sent_at is None
    with pytest.raises(DelegationRequired):  # limited by the vault: nothing else is allowed either
        await room.exchange("google", WRITE)
    room.pass_time(600)
    token = await room.exchange("google", READ)
    assert token.narrowing is Narrowing.UPSTREAM
    assert room.google.issued[token.value] == {READ}


async def test_an_expired_full_token_is_refreshed_where_the_provider_refuses_to_narrow(room: Room) -> None:
    await room.connect("google")
    room.pass_time(3600)
    room.google.faults.append(Fault(before=Refusal("invalid_scope", "Bad Request", ends_grant=False)))
    token = await room.exchange("google", READ)
    assert token.narrowing is Narrowing.ENFORCED
    assert room.google.issued[token.value] == GOOGLE_SCOPES
    assert [(send.scopes, send.outcome) for send in room.google.sends] == [({READ}, "Refusal"), (None, "Rotation")]


async def test_any_other_refusal_of_a_narrowing_is_not_worked_around(room: Room) -> None:
    connection = await room.connect("google")
    room.google.faults.append(INVALID_CLIENT)
    with pytest.raises(TemporarilyUnavailable, match="invalid_client"):
        await room.exchange("google", READ)
    assert (await room.row(connection)).refresh_sealed is not None


async def test_identity_scopes_may_ride_along_in_a_narrow_token(room: Room) -> None:
    await room.connect("google")
    room.google.faults.append(Fault(scopes=frozenset({READ, "openid"})))
    assert (await room.exchange("google", READ)).narrowing is Narrowing.UPSTREAM


async def test_a_destructive_narrowing_is_never_asked_for(room: Room) -> None:
    policies = {"google": google(downscope_is_destructive=True)}
    room.vault = replace(room.vault, policies=policies)
    await room.connect("google")
    assert (await room.exchange("google", READ)).narrowing is Narrowing.ENFORCED
    assert room.google.sends == []


async def test_an_account_without_a_refresh_token_cannot_be_narrowed_and_is_enforced(room: Room) -> None:
    await room.connect("google", refreshable=False)
    assert (await room.exchange("google", READ)).narrowing is Narrowing.ENFORCED


async def test_while_a_send_is_unanswered_a_living_full_token_serves_enforced(store: Store) -> None:
    async with open_room(store) as room:
        policy = replace(google(), provider="slack", rotation=RotationMode.REVOKES)
        room.vault = replace(room.vault, policies={"slack": policy})
        await room.connect("slack", scopes=GOOGLE_SCOPES)
        room.slack.faults.append(LOST_ANSWER)
        with pytest.raises(TemporarilyUnavailable):
            await room.exchange("slack", READ)
        assert (await room.exchange("slack", READ)).narrowing is Narrowing.ENFORCED
        assert len(room.slack.sends) == 1


async def test_a_token_of_ours_has_exactly_the_scopes_and_is_for_no_single_item(room: Room) -> None:
    minted: list[tuple[str, frozenset[str]]] = []

    def mint(_principal: Principal, *, audience: str, scopes: frozenset[str], now: int) -> MintedToken:
        minted.append((audience, scopes))
        return MintedToken("minted", now + 60)

    policy = replace(room.vault.policies["slack"], audience="https://api.example")
    room.vault = replace(room.vault, policies={**room.vault.policies, "slack": policy}, mint=mint)
    connection = await room.connect()
    await room.set_ask(connection, "channels:read")
    token = await room.exchange("slack", "chat:write")
    assert (token.value, token.scopes, token.is_asked_beyond) == ("minted", {"chat:write"}, False)
    request = room.request("slack", "chat:write")
    without_mint = replace(room.vault, mint=None)
    for wanted, vault in ((replace(request, item="https://api.example/1"), room.vault), (request, without_mint)):
        with pytest.raises(ItemRefused):
            await exchange(wanted, vault=vault, now=room.now)
    assert minted == [("https://api.example", {"chat:write"})]


@pytest.mark.parametrize("has_password", [True, False])
async def test_what_a_person_entered_comes_with_a_sessions_token_if_it_is_there(
    room: Room, *, has_password: bool
) -> None:
    connection = await room.connect(refreshable=has_password)
    policy = replace(room.vault.policies["slack"], credential=CredentialKind.SESSION)
    room.vault = replace(room.vault, policies={**room.vault.policies, "slack": policy})
    token = await room.exchange("slack", "chat:write")
    assert token.connection_id == connection.id
    assert token.entered == (room.slack.families[0].refresh_token if has_password else "")
