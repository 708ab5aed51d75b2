"""Registrations at providers: stored with their secrets, and when a secret that expires is renewed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vault import registrations
from vault.keys.key_ring import KeyRing
from vault.refusals import CiphertextRejected
from vault.registrations import ClientRenewal, EnteredRegistration, StoredRegistration
from vault.storage.database import Database

DAY = 86400


@pytest.mark.parametrize(
    ("life", "renewed", "announced"),
    [
        (90 * DAY, 83 * DAY, 83 * DAY + 7 * DAY // 4),
        (21 * DAY, 14 * DAY, 14 * DAY + 7 * DAY // 4),
        (9 * DAY, 6 * DAY, 6 * DAY + 3 * DAY // 4),
    ],
)
def test_a_secret_is_renewed_after_two_thirds_of_its_life_or_a_week_before_its_end(
    life: int, renewed: int, announced: int
) -> None:
    stored = StoredRegistration("notes", "1", "client", {}, False, 1000, "", None, secret_ends_at=1000 + life)
    assert stored.renew_at == 1000 + renewed
    assert [stored.is_ending(1000 + announced + late) for late in (-1, 0)] == [False, True]


def test_a_secret_without_an_end_is_never_renewed() -> None:
    stored = StoredRegistration("notes", "1", "client", {}, False, 1000, "", None)
    assert stored.renew_at is None
    assert not stored.is_ending(2**40)
    ended = StoredRegistration("notes", "1", "client", {}, False, 1000, "", None, secret_ends_at=900)
    assert ended.is_ending(1000)


async def test_a_registration_is_stored_replaced_and_removed_once(database: Database, key_ring: KeyRing) -> None:
    async def save(
        entered: EnteredRegistration, *, known: StoredRegistration | None = None
    ) -> StoredRegistration | None:
        async with database.transaction() as transaction:
            return await registrations.save_registration(
                transaction, key_ring, entered, provider="slack", by="alice", now=1000, known=known
            )

    async def reopen() -> tuple[EnteredRegistration, ClientRenewal, StoredRegistration]:
        stored = await registrations.get_registration(database, "slack")
        assert stored is not None
        opened = await registrations.open_registration(database, key_ring, stored)
        return opened, await registrations.open_renewal(database, key_ring, stored), stored

    async def claim(claimed: StoredRegistration, *, at: int) -> bool:
        async with database.transaction() as transaction:
            return await registrations.claim_renewal(transaction, claimed, now=at)

    renewal = ClientRenewal(5000, "https://slack.example/clients/1", "renewal token")
    inputs = {"tenant": "t", "domain": "d"}
    first = EnteredRegistration("client", "secret", inputs, is_testing=True, renewal=renewal)
    kept = await save(first)
    assert kept is not None
    (row,) = await database.fetch("select inputs from provider_registrations")
    assert row["inputs"] == '{"domain":"d","tenant":"t"}'
    assert await save(first) is None  # someone else was first
    opened, found, stored = await reopen()
    assert (opened, found) == (replace(first, renewal=None), renewal)
    assert stored.without_secret() == EnteredRegistration("client", "-", inputs, is_testing=True)
    assert [one.revision for one in await registrations.list_registrations(database)] == [stored.revision]
    assert [await claim(stored, at=at) for at in (10_000, 10_899, 10_900)] == [True, False, True]
    public = EnteredRegistration("public", None)
    assert await save(public, known=stored) is not None
    assert await save(first, known=stored) is None
    opened, found, replaced = await reopen()
    assert (opened, found) == (public, ClientRenewal(None))
    assert replaced.without_secret() == public
    assert [await claim(one, at=10_901) for one in (stored, replaced)] == [False, True]
    with pytest.raises(CiphertextRejected):  # the key of the secret before is gone
        await registrations.open_registration(database, key_ring, stored)
    with pytest.raises(CiphertextRejected):
        await registrations.open_renewal(database, key_ring, stored)
    async with database.transaction() as transaction:
        assert not await registrations.remove_registration(transaction, key_ring, stored)
        assert await registrations.remove_registration(transaction, key_ring, replaced)
    assert await registrations.get_registration(database, "slack") is None
