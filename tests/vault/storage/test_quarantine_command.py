"""`restore` and `quarantine` refuse a vault in use, and `quarantine` does what a restore does at its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.app import open_deployment
from server.cli import app
from server.settings import load_settings
from tests.conftest import Store
from tests.support.rooms.vault_room import Room
from vault import connections, users
from vault.audit.audit import list_events
from vault.backup import quarantine
from vault.backup.quarantine import RestoreVerdict
from vault.records import Event
from vault.refresh import recovery, sightings
from vault.refusals import StorageBusy
from vault.storage.liveness import OwnerLocks
from vault.upstream import Account, TokenAnswer


@pytest.fixture
async def place(store: Store) -> AsyncGenerator[Store]:
    """A person with an account at Slack, whose refresh tokens rotate here, and one at Google."""
    settings = f'[database]\nurl = "{store.url}"\n[server]\nport = 1\n[providers.slack]\nclient_id = "ours"\n'
    (store.data / "config.toml").write_text(settings, encoding="utf-8")
    loaded = load_settings(data=store.data)
    async with open_deployment(loaded, data=store.data) as opened, opened.transaction() as work:
        user = await users.create_user(work, "alice", now=opened.now())
        for provider in ("slack", "google"):
            await connections.open_connection(
                work,
                opened.keys,
                user_id=user.id,
                provider=provider,
                answer=TokenAnswer("access", "refresh", frozenset({"a"}), 3600, Account("1", "alice")),
                asked=frozenset({"a"}),
                policy=opened.vault.policies[provider],
                now=opened.now(),
            )
    yield store


async def run(place: Store, *arguments: str) -> Result:
    shared = ["--data", str(place.data), "--json"]
    return await asyncio.to_thread(CliRunner().invoke, app, [*arguments, *shared])


async def facts(place: Store) -> Sequence[object]:
    database = await place.open()
    try:
        rows = await database.fetch(
            "select provider, state, generation, refresh_sealed is null as lost from connections"
        )
        return sorted((str(row["provider"]), bool(row["lost"]), row["generation"]) for row in rows)
    finally:
        await database.close()


async def test_a_dry_run_says_what_would_become_of_each_account_and_changes_nothing(place: Store) -> None:
    before = await facts(place)
    shown = await run(place, "quarantine", "--dry-run")
    assert shown.exit_code == 0, shown.output
    verdicts = {one["provider"]: one["verdict"] for one in json.loads(shown.stdout)}
    assert verdicts == {"slack": "must be reconnected when the access token expires", "google": "unaffected"}
    assert await facts(place) == before
    done = await run(place, "quarantine")
    assert {one["provider"]: one["verdict"] for one in json.loads(done.stdout)} == verdicts
    after = await facts(place)
    assert [one[:2] for one in after] == [("google", False), ("slack", True)]
    database = await place.open()
    *_, held, last = await list_events(database)
    await database.close()
    assert (held.kind, last.kind) == ("connection.quarantined", "vault.quarantined")
    assert (last.details["connections"], last.details["quarantined"]) == (2, 1)
    assert last.details["known"] == held.sequence - 1


async def test_a_preview_names_each_account_its_owner_and_until_when_it_works(room: Room) -> None:
    active, ending = await room.connect(), await room.connect(account="other")
    kept = await room.connect("google")
    alice = room.alice.user
    async with room.database.transaction() as transaction:
        await transaction.execute(
            "update connections set access_expires_at = :now where id = :id", {"now": room.now, "id": ending.id}
        )
    policies = room.vault.policies
    found = {one.connection_id: one for one in await quarantine.preview(room.database, policies, now=room.now)}
    assert {(one.user_id, one.user) for one in found.values()} == {(alice.id, alice.name)}
    until = {
        name: (found[one.id].verdict, found[one.id].until)
        for name, one in {"active": active, "ending": ending, "kept": kept}.items()
    }
    assert until == {
        "active": (RestoreVerdict.UNTIL_EXPIRY, room.now + 3600),
        "ending": (RestoreVerdict.RECONNECT, None),
        "kept": (RestoreVerdict.UNAFFECTED, None),
    }
    async with room.database.transaction() as transaction:
        await quarantine.quarantine(transaction, policies, now=room.now)
        await transaction.execute("delete from users where id = :id", {"id": alice.id})
    for one, state, reason in ((active, "active", None), (ending, "needs_reauth", "restored"), (kept, "active", None)):
        row = await room.database.fetch_one("select state, reason from connections where id = :id", {"id": one.id})
        assert row == {"state": state, "reason": reason}
    for one in await quarantine.preview(room.database, policies, now=room.now):
        assert (one.user_id, one.user) == (alice.id, alice.id)  # nobody has this id any more


@pytest.mark.parametrize(("option", "is_alarm_after"), [((), False), (("--accept",), False), (("--dry-run",), True)])
async def test_what_was_noticed_is_settled_by_the_command(
    place: Store, option: tuple[str, ...], *, is_alarm_after: bool
) -> None:
    sightings.note_older_rows(place.data, 1, now=1)
    seen = await run(place, "doctor")
    history = next(one for one in json.loads(seen.stdout) if one["check"] == "history")
    assert (history["verdict"], "quarantine" in history["fix"]) == ("problem", True)
    before = await facts(place)
    assert (await run(place, "quarantine", *option)).exit_code == 0
    assert (await facts(place) == before) is bool(option)
    again = json.loads((await run(place, "doctor")).stdout)
    verdict = next(one["verdict"] for one in again if one["check"] == "history")
    assert verdict == ("problem" if is_alarm_after else "ok")


@pytest.mark.parametrize("command", ["quarantine", "restore"])
async def test_a_process_that_has_the_vault_open_keeps_it_from_being_replaced(place: Store, command: str) -> None:
    file = str(place.data.parent / "vault.backup")
    assert (await run(place, "backup", file)).exit_code == 0
    arguments = [command] if command == "quarantine" else [command, file, "--force"]
    before = await facts(place)
    async with open_deployment(load_settings(data=place.data), data=place.data):  # as stdio does, or serve on any host
        refused = await run(place, *arguments)
        assert (refused.exit_code, "in use on this host" in refused.stderr) == (1, True)
        assert "--ignore-running" in refused.stderr
        assert await facts(place) == before
        assert (await run(place, "quarantine", "--dry-run")).exit_code == 0
    assert (await run(place, *arguments)).exit_code == 0


async def test_who_knows_better_goes_on_all_the_same(place: Store) -> None:
    async with open_deployment(load_settings(data=place.data), data=place.data):
        assert (await run(place, "quarantine", "--ignore-running")).exit_code == 0


async def test_a_process_of_an_earlier_release_is_seen_by_the_name_that_it_holds(place: Store) -> None:
    owners = OwnerLocks(place.data)
    owners.hold("somebody")
    assert "in use on this host" in (await run(place, "quarantine")).stderr
    owners.close()
    assert (await run(place, "quarantine")).exit_code == 0


async def test_a_replica_on_another_host_is_seen_at_the_database(postgres_store: Store, tmp_path: Path) -> None:
    settings = f'[database]\nurl = "{postgres_store.url}"\n[server]\nport = 1\n'
    (postgres_store.data / "config.toml").write_text(settings, encoding="utf-8")
    elsewhere = tmp_path / "other host"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "master.key").write_bytes((postgres_store.data / "master.key").read_bytes())
    (elsewhere / "master.key").chmod(0o600)
    loaded = load_settings(data=postgres_store.data)
    async with open_deployment(loaded, data=elsewhere) as replica:
        await recovery.watch(replica.vault)
        refused = await run(postgres_store, "quarantine")
        assert (refused.exit_code, "replicas on all hosts" in refused.stderr) == (1, True)
    async with asyncio.timeout(30):
        while (await run(postgres_store, "quarantine")).exit_code != 0:  # the server may still have the sessions
            await asyncio.sleep(0.2)


async def test_nothing_starts_while_a_vault_is_being_replaced(place: Store) -> None:
    from vault.storage.presence import Presence

    restoring = Presence(place.url, data=place.data)
    assert restoring.take_alone()
    with pytest.raises(StorageBusy, match="a restore of this vault"):
        async with open_deployment(load_settings(data=place.data), data=place.data):
            pass
    restoring.close()
    async with open_deployment(load_settings(data=place.data), data=place.data) as opened:
        await opened.activity.record(Event("started"))
