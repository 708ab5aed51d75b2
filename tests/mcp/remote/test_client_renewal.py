"""Registrations whose secrets expire: renewed before that, registered again afterward, and never silently lost."""

from __future__ import annotations

import asyncio

import pytest

from server.administration.actor import ChangeRefused
from server.administration.declaration import parse_declaration
from server.remote import renewal_step, servers
from server.remote.declared_servers import plan
from server.remote.registration_renewal import renew_due
from server.remote.servers import EnteredClient, NewServer
from tests.mcp.remote.remote_room import RemoteRoom, text
from tests.support.inspection import read_events, until_waiting
from vault import registrations
from vault.registrations import EnteredRegistration, StoredRegistration

POST = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
DAY = 86_400


async def read_registration(place: RemoteRoom, name: str) -> StoredRegistration:
    found = await registrations.get_registration(place.deployment.database, name)
    assert found is not None
    return found


async def kinds(place: RemoteRoom, name: str) -> list[str]:
    events = await read_events(place.deployment, newest_first=True)
    return [one.kind for one in events if one.details.get("provider") == name and "client" in one.kind]


async def test_a_client_is_renewed_before_its_secret_ends_and_accounts_stay(place: RemoteRoom) -> None:
    now = place.deployment.now()
    name, double, agent = await place.ready(metadata=POST, secret_ends=now - 100, renewed_end=now + 90 * DAY)
    first = await read_registration(place, name)
    assert b"manage-client-1" not in (first.sealed_renewal or b"")
    await renewal_step.STEP.work(place.deployment)
    assert double.managed == ["GET", "PUT"]
    entered = place.deployment.live.current.entered[name]
    assert (entered.client_id, entered.client_secret) == ("client-1", double.secrets["client-1"])
    assert (await read_registration(place, name)).secret_ends_at == now + 90 * DAY
    assert await kinds(place, name) == ["mcp_server.client_renewed"]
    double.end_tokens()
    looked = await place.look(name, agent)
    assert not looked.is_error, text(looked)
    assert double.token_requests[-1]["grant_type"] == "refresh_token"
    assert double.token_requests[-1]["client_secret"] == double.secrets["client-1"]
    await renewal_step.STEP.work(place.deployment)
    assert double.managed == ["GET", "PUT"], "it isn't due again"


async def test_where_nothing_renews_it_the_vault_registers_anew_at_the_end(place: RemoteRoom) -> None:
    now = place.deployment.now()
    name, double, agent = await place.ready(metadata=POST, secret_ends=now - 100)
    double.secret_ends = now + 90 * DAY
    await renewal_step.STEP.work(place.deployment)
    assert len(double.registrations) == 2
    assert place.deployment.live.current.entered[name].client_id == "client-2"
    assert await kinds(place, name) == ["mcp_server.client_replaced"]
    double.end_tokens()
    double.refreshing.clear()  # those tokens belonged to the old client
    await place.look(name, agent)
    assert "connection.needs_reauth" in await all_kinds(place, name)


async def all_kinds(place: RemoteRoom, name: str) -> list[str]:
    events = await read_events(place.deployment, newest_first=True)
    return [one.kind for one in events if one.details.get("provider") == name]


async def test_a_secret_that_lives_on_is_left_alone(place: RemoteRoom) -> None:
    now = place.deployment.now()
    name, double = await place.add(metadata=POST, secret_ends=now + 3 * DAY, renewed_end=now + 90 * DAY)
    await renewal_step.STEP.work(place.deployment)
    assert (double.managed, len(double.registrations)) == ([], 1)
    kept = await read_registration(place, name)
    assert kept.renew_at is not None
    assert now + DAY < kept.renew_at < now + 3 * DAY
    async with place.deployment.transaction() as transaction:
        assert await registrations.claim_renewal(transaction, kept, now=now)
        assert not await registrations.claim_renewal(transaction, kept, now=now + 899), "another process is at it"
        assert await registrations.claim_renewal(transaction, kept, now=now + 900)


async def test_a_removed_server_is_told_that_the_client_is_gone(place: RemoteRoom) -> None:
    name, double = await place.add(metadata=POST, renewed_end=0)
    await servers.remove(place.operator, name)
    assert double.managed == ["DELETE"]


@pytest.mark.parametrize("is_renewed", [True, False])
async def test_a_server_whose_client_is_renewed_meanwhile_is_removed_with_the_new_client(
    place: RemoteRoom, *, is_renewed: bool
) -> None:
    name, double = await place.add(metadata=POST, renewed_end=0)
    known, deployment = await read_registration(place, name), place.deployment
    async with deployment.transaction() as renewing:
        removing = asyncio.ensure_future(servers.remove(place.operator, name))
        await until_waiting(renewing, number=1, is_sqlite=True)
        if is_renewed:
            entered = EnteredRegistration("client-9", "the secret of the new client")
            which = {"provider": name, "by": "", "now": deployment.now(), "known": known}
            assert await registrations.save_registration(renewing, deployment.keys, entered, **which)
    if is_renewed:
        with pytest.raises(ChangeRefused) as refused:
            await removing
        assert refused.value.reason == "registration_changed"
        await servers.remove(place.operator, name)
    else:
        await removing
        assert double.managed == ["DELETE"]
    assert await registrations.get_registration(deployment.database, name) is None
    with pytest.raises(ChangeRefused):
        await servers.server_named(deployment, name)


async def test_a_server_that_says_no_methods_takes_a_public_client(place: RemoteRoom) -> None:
    client = EnteredClient("public-1")
    silent = place.site.add("silent", metadata={"token_endpoint_auth_methods_supported": []})
    added = await servers.add(place.operator, NewServer("silent", silent.url, client=client))
    assert added.facts["client_auth"] == "none"
    strict = place.site.add("strict", metadata=POST)
    with pytest.raises(ChangeRefused, match="doesn't accept clients without a secret"):
        await servers.add(place.operator, NewServer("strict", strict.url, client=client))


async def test_a_declared_issuer_is_compared_with_the_one_that_was_found(place: RemoteRoom) -> None:
    double = place.site.add("issued", metadata={"authorization_response_iss_parameter_supported": False})
    await servers.add(place.operator, NewServer("issued", double.url))
    same = {"url": double.url, "issuer": double.base}
    assert await plan(place.operator, parse_declaration({"mcp_servers": {"issued": same}})) == ()
    other = parse_declaration({"mcp_servers": {"issued": {**same, "issuer": "https://other.example"}}})
    with pytest.raises(ChangeRefused, match="authorization server can't change"):
        await plan(place.operator, other)


@pytest.mark.parametrize(
    ("read", "updated", "end"),
    [
        ({"client_secret_expires_at": None}, {}, 90),
        ({"client_secret_expires_at": 0}, {}, 90),  # without the secret, this says nothing about our secret
        ({"client_secret_expires_at": 0, "client_secret": "endless-" + "s" * 24}, {}, None),
        ({}, {"client_secret_expires_at": 0}, None),
        ({}, {"client_secret_expires_at": None}, 1),
    ],
    ids=["read without an end", "read without its secret", "read endless", "updated endless", "updated without an end"],
)
async def test_only_a_server_that_says_so_gave_an_endless_secret(
    place: RemoteRoom, read: dict[str, object], updated: dict[str, object], end: int | None
) -> None:
    now = place.deployment.now()
    name, double = await place.add(
        metadata=POST, secret_ends=now + DAY, renewed_end=now + 90 * DAY, read_changes=read, update_changes=updated
    )
    await renew_due(place.deployment, [await read_registration(place, name)])
    assert (await read_registration(place, name)).secret_ends_at == (None if end is None else now + end * DAY)
    assert place.deployment.live.current.entered[name].client_secret == double.secrets["client-1"]
    assert await kinds(place, name) == ([] if end == 1 else ["mcp_server.client_renewed"])


@pytest.mark.parametrize("status", [403, 503])
async def test_what_reading_changed_is_kept_where_the_update_is_refused(place: RemoteRoom, status: int) -> None:
    now = place.deployment.now()
    rotated = {"client_secret": "rotated-" + "s" * 24, "registration_access_token": "manage-again"}
    name, double = await place.add(
        metadata=POST, secret_ends=now + DAY, renewed_end=now + 90 * DAY, read_changes=rotated, update_status=status
    )
    before = await read_registration(place, name)
    await renew_due(place.deployment, [before])
    assert double.managed == ["GET", "PUT"]
    kept = await read_registration(place, name)
    assert (kept.secret_ends_at, kept.renew_at) == (now + DAY, before.renew_at)
    assert place.deployment.live.current.entered[name].client_secret == rotated["client_secret"]
    place_of_it = await registrations.open_renewal(place.deployment.database, place.deployment.keys, kept)
    assert place_of_it.token == "manage-again"
    async with place.deployment.transaction() as transaction:
        assert not await registrations.claim_renewal(transaction, kept, now=now), "it was tried a moment ago"
    double.update_status = 200
    await renew_due(place.deployment, [await read_registration(place, name)])
    assert double.managed == ["GET", "PUT"], "the claim holds"


async def test_a_server_that_never_answers_gets_a_new_client_after_the_end(place: RemoteRoom) -> None:
    now = place.deployment.now()
    failing = {"metadata": POST, "renewed_end": now + 90 * DAY, "update_status": 503}
    name, double = await place.add(secret_ends=now - 100, **failing)
    soon, waiting = await place.add(secret_ends=now + 1800, **failing)
    await renew_due(place.deployment, [await read_registration(place, name), await read_registration(place, soon)])
    assert (len(double.registrations), len(waiting.registrations)) == (2, 1)


@pytest.mark.parametrize("registers", [True, False])
async def test_the_log_says_so_where_a_server_registers_nobody_any_more(
    place: RemoteRoom, caplog: pytest.LogCaptureFixture, registers: bool
) -> None:
    now = place.deployment.now()
    name, double = await place.add(metadata=POST, secret_ends=now - 100)
    double.metadata = POST if registers else {**POST, "registration_endpoint": None}
    await renew_due(place.deployment, [await read_registration(place, name)])
    causes = [str(one.__dict__["cause"]) for one in caplog.records if one.__dict__.get("provider") == name]
    assert causes == ([] if registers else ["its authorization server no longer lets clients register themselves"])
    assert (await read_registration(place, name)).client_id == ("client-2" if registers else "client-1")


async def test_a_client_that_is_no_longer_used_is_ended(place: RemoteRoom) -> None:
    now = place.deployment.now()
    both = {"token_endpoint_auth_methods_supported": ["client_secret_post", "none"]}
    name, double = await place.add(metadata=both, secret_ends=now + DAY, renewed_end=now + 90 * DAY)
    assert place.deployment.live.current.entered[name].client_id == "client-2"
    assert double.ended == ["client-1"]
    endless, kept = await place.add(metadata=both, renewed_end=now + 90 * DAY)
    assert place.deployment.live.current.entered[endless].client_id == "client-1"
    assert kept.ended == []


async def test_a_replaced_client_is_ended(place: RemoteRoom) -> None:
    now = place.deployment.now()
    name, double = await place.add(metadata=POST, secret_ends=now - 100, renewed_end=now + 90 * DAY, update_status=403)
    await renew_due(place.deployment, [await read_registration(place, name)])
    assert place.deployment.live.current.entered[name].client_id == "client-2"
    assert (double.managed, double.ended) == (["GET", "PUT", "DELETE"], ["client-1"])


@pytest.mark.parametrize(("said", "end"), [(1.9e9, 1_900_000_000), (10**30, 253_402_300_799), (True, None), (-1, None)])
async def test_the_end_of_a_secret_is_read_as_any_number(place: RemoteRoom, said: float, end: int | None) -> None:
    name, _ = await place.add(metadata=POST, secret_ends=said)
    assert (await read_registration(place, name)).secret_ends_at == end
