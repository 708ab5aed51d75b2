"""Proofs of events: each reason to make none, with its twin, and that reading one writes nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from server.app import open_deployment
from server.checkpoints import event_proofs
from server.checkpoints.event_proofs import ProofRefused
from server.checkpoints.publication import current_log, publish
from server.deployment import Deployment
from server.settings import load_settings
from tests.conftest import Store
from vault.audit import segments
from vault.audit.audit import append
from vault.audit.proof import ChainBroken
from vault.records import DAY, Event
from vault.storage.database import Value


@pytest.fixture
async def deployment(store: Store, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Deployment]:
    """A vault that nothing serves, so upkeep neither signs nor prunes; its segments have three events."""
    monkeypatch.setattr(segments, "SEGMENT", 3)
    overrides = {} if store.is_sqlite else {"database": {"url": store.url}}
    async with open_deployment(load_settings(overrides=overrides), data=store.data) as opened:
        yield opened


async def happen(deployment: Deployment, count: int = 1) -> int:
    """Record events; return the number of the last."""
    for _ in range(count):
        async with deployment.transaction() as transaction:
            await append(transaction, Event("key.rotated", details={"kid": "k"}), now=deployment.now())
    row = await deployment.database.fetch_one("select max(sequence) as n from events")
    assert row is not None
    return int(str(row["n"]))


async def change(deployment: Deployment, sql: str, **values: Value) -> None:
    async with deployment.database.transaction() as transaction:
        await transaction.execute(sql, values)


async def count_rows(deployment: Deployment) -> tuple[int, ...]:
    """How many rows everything has that a proof could write."""
    tables = ("events", "event_notes", "event_tiles", "keys.ring")
    rows = [await deployment.database.fetch_one(f"select count(*) as n from {one}") for one in tables]
    return tuple(int(str(row["n"])) for row in rows if row is not None)


async def refusal(deployment: Deployment, sequence: int) -> ProofRefused:
    with pytest.raises(ProofRefused) as refused:
        await event_proofs.prove_event(deployment, sequence)
    return refused.value


async def test_reading_writes_nothing_at_any_stage(deployment: Deployment) -> None:
    """Before the first log, before the first checkpoint, with one, and after a restore ended the log."""
    last, before = await happen(deployment, 2), await count_rows(deployment)
    with pytest.raises(ProofRefused) as refused:
        await event_proofs.newest_checkpoint(deployment)
    assert (refused.value.code, refused.value.kind, refused.value.retry_after) == ("no_checkpoint", "not_found", 60)
    early = await refusal(deployment, last)
    assert (early.code, early.kind, early.retry_after) == ("event_unsigned", "conflict", 60)
    assert (await refusal(deployment, last + 1)).code == "no_event"
    assert await event_proofs.list_keys(deployment) == []
    assert await count_rows(deployment) == before

    log = await current_log(deployment)
    before = await count_rows(deployment)
    assert (await refusal(deployment, last)).code == "event_unsigned"
    assert [one.signs for one in await event_proofs.list_keys(deployment)] == [True]
    assert await count_rows(deployment) == before
    await publish(deployment)
    proof = await event_proofs.prove_event(deployment, last)
    assert (proof.sequence, proof.index, proof.events, proof.origin) == (last, last - 1, last, log.origin)
    assert proof.text.endswith(str((await event_proofs.newest_checkpoint(deployment)).note))

    async with deployment.transaction() as transaction:
        await append(transaction, Event("vault.restored", details={"known": last}), now=deployment.now())
    before = await count_rows(deployment)
    assert (await refusal(deployment, last)).code == "event_unsigned"
    assert [one.signs for one in await event_proofs.list_keys(deployment)] == [False]
    assert await count_rows(deployment) == before
    await publish(deployment)
    again = await event_proofs.prove_event(deployment, last)
    assert again.origin != log.origin
    assert [one.signs for one in await event_proofs.list_keys(deployment)] == [False, True]


async def test_the_wait_for_a_checkpoint_ends_with_the_next_one(deployment: Deployment) -> None:
    await happen(deployment)
    await publish(deployment)
    last = await happen(deployment)
    early = await refusal(deployment, last)
    assert early.retry_after in range(3650, 3661)  # some seconds may have passed
    assert early.values["minutes"] == "61"
    deployment.database.clock_offset += 3030
    later = await refusal(deployment, last)
    assert later.retry_after in range(620, 631)
    assert later.values["minutes"] == "11"
    deployment.database.clock_offset += 9000  # upkeep doesn't run here
    late = await refusal(deployment, last)
    assert (late.retry_after, late.values["minutes"]) == (60, "1")
    await publish(deployment)
    assert (await event_proofs.prove_event(deployment, last)).sequence == last


async def test_the_command_signs_what_reading_does_not(deployment: Deployment) -> None:
    await happen(deployment)
    await publish(deployment)
    last = await happen(deployment)
    assert (await refusal(deployment, last)).code == "event_unsigned"
    made = await event_proofs.sign_and_prove(deployment, last)
    assert await event_proofs.prove_event(deployment, last) == made
    with pytest.raises(ProofRefused, match=f"there is no event {last + 1} yet"):
        await event_proofs.sign_and_prove(deployment, last + 1)


async def test_a_pruned_event_is_gone_and_the_next_one_is_still_proved(deployment: Deployment) -> None:
    await happen(deployment, 7)
    await segments.seal(deployment.database, now=deployment.now())
    await publish(deployment)
    assert (await event_proofs.prove_event(deployment, 6)).index == 5
    later = deployment.now() + 3 * DAY
    assert await segments.prune(deployment.database, retention_days=1, now=later) == 6
    for prove in (event_proofs.prove_event, event_proofs.sign_and_prove):
        with pytest.raises(ProofRefused) as refused:
            await prove(deployment, 6)
        assert (refused.value.code, refused.value.kind) == ("event_pruned", "gone")
        assert (await prove(deployment, 7)).index == 6


async def test_an_event_that_was_pruned_before_the_tree_began_is_older_than_it(deployment: Deployment) -> None:
    await happen(deployment, 7)
    await segments.seal(deployment.database, now=deployment.now())
    assert await segments.prune(deployment.database, retention_days=1, now=deployment.now() + 3 * DAY) == 6
    await publish(deployment)
    for prove in (event_proofs.prove_event, event_proofs.sign_and_prove):
        with pytest.raises(ProofRefused) as refused:
            await prove(deployment, 6)
        assert (refused.value.code, refused.value.kind) == ("event_before_tree", "not_found")
        assert refused.value.description == "event 6 is older than the tree, which begins at event 7"
        assert (await prove(deployment, 7)).index == 0


@pytest.mark.parametrize(
    ("sql", "forged"),
    [
        ("update events set outcome = :forged where sequence = 2", "forged"),
        ("update event_tiles set hashes = :forged", bytes(96)),
        ("update event_notes set note = :forged", "nothing"),
    ],
)
async def test_nothing_is_proved_of_a_changed_activity(deployment: Deployment, sql: str, forged: str | bytes) -> None:
    assert await happen(deployment, 3) == 3
    await publish(deployment)
    assert (await event_proofs.prove_event(deployment, 2)).index == 1
    await change(deployment, sql, forged=forged)
    with pytest.raises(ChainBroken):
        await event_proofs.prove_event(deployment, 2)
