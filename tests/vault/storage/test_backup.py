"""Backups and restoring: what the file contains, what is refused, and that a restored vault presents no used token."""

from __future__ import annotations

import asyncio
import shutil
from collections import defaultdict
from itertools import accumulate
from pathlib import Path

import pytest

from server.administration.receipts import verify as check_receipt
from tests.conftest import KeySettings, Store
from tests.support.doubles.upstream_double import UpstreamDouble
from tests.support.inspection import verify_activity
from tests.support.rooms.vault_room import Room, google, open_room, second_process, slack
from tests.support.seeded_grant import SESSION_IDLE, SESSION_LIFETIME, let_in_again
from vault import connections, groups
from vault.approvals import approvals
from vault.audit.audit import list_events
from vault.backup import backups, quarantine
from vault.backup.backups import Backup
from vault.backup.quarantine import RestoreVerdict
from vault.exchange.exchange import exchange
from vault.keys.sealed_file import BackupRefused
from vault.keys.sources import KeySource, key_source
from vault.keys.sources.passphrase import PassphraseKeySource
from vault.records import Connection
from vault.refresh import journal_recovery, recovery, sightings
from vault.refusals import ConnectionRequired, KeyUnavailable, VaultError
from vault.sign_in import passkeys, sessions
from vault.storage import postgres
from vault.storage.database import schema_files
from vault.storage.schema_shape import expected_shape
from vault.storage.snapshots import snapshot, tables
from vault.upkeep import receipts, revocations
from vault.upstream import ProbeOutcome, RotationMode

HOUR = 3600


def source_of(store: Store) -> KeySource:
    return key_source(KeySettings(), data=store.data)


async def backed_up(room: Room, *, with_keys: bool = False, source: KeySource | None = None) -> Path:
    path = room.store.data.parent / "vault.backup"
    async with snapshot(room.store.url, data=room.store.data) as seen:
        await backups.write_backup(
            path, seen, ring=room.vault.keys, passphrase=source, with_keys=with_keys, now=room.now
        )
    return path


async def restore_backup(
    room: Room, path: Path, *, force: bool = True, source: KeySource | None = None
) -> dict[str, RestoreVerdict]:
    backup = await Backup.open(path, source or source_of(room.store))
    judged = await backups.restore(
        backup,
        room.database,
        source=source_of(room.store),
        policies={"slack": slack(room.slack.rotation), "google": google()},
        force=force,
    )
    await let_in_again(room.database)
    return {one.connection_id: one.verdict for one in judged}


def spent_presented(upstream: UpstreamDouble) -> int:
    """How often, by the double's records, a token was sent that had been exchanged before."""
    seen: set[str] = set()
    twice = 0
    for send in upstream.sends:
        twice += send.refresh_token in seen
        seen.add(send.refresh_token)
    return twice


async def wants_person(room: Room, connection: Connection) -> ConnectionRequired:
    with pytest.raises(ConnectionRequired) as refused:
        await room.exchange(account=connection.id)
    return refused.value


@pytest.mark.requirement("V-10")
@pytest.mark.parametrize("rotation", [RotationMode.REVOKES, RotationMode.STRICT, RotationMode.GRACE])
async def test_a_backup_one_hour_old_presents_no_spent_token(store: Store, rotation: RotationMode) -> None:
    async with open_room(store, rotation=rotation) as room:
        connection = await room.connect()
        path = await backed_up(room)
        for _ in range(3):
            room.pass_time(HOUR)
            await room.exchange()
        sends = len(room.slack.sends)
        verdicts = await restore_backup(room, path)
        assert verdicts == {connection.id: RestoreVerdict.RECONNECT}
        assert (await wants_person(room, connection)).reason == "needs_reauth"
        assert len(room.slack.sends) == sends
        assert spent_presented(room.slack) == 0
        assert room.slack.families[0].is_alive


async def test_answers_that_the_journal_still_holds_are_not_adopted_after_a_restore(room: Room) -> None:
    """Another host may have spent this host's newest one."""
    connection = await room.connect()
    path = await backed_up(room)
    for _ in range(2):
        room.pass_time(HOUR)
        await room.exchange()
    assert (await room.vault.journal.find(connection.id))[0].generation == 2
    await restore_backup(room, path)
    assert await journal_recovery.adopt_all(room.vault) == 0
    assert (await room.row(connection)).refresh_sealed is None
    await wants_person(room, connection)
    assert len(room.slack.sends) == 2


async def test_the_access_token_of_the_backup_is_used_to_its_end_and_then_the_person_is_needed(room: Room) -> None:
    connection = await room.connect()
    path = await backed_up(room)
    assert await restore_backup(room, path) == {connection.id: RestoreVerdict.UNTIL_EXPIRY}
    token = await room.exchange()
    assert token.value in room.slack.issued
    room.pass_time(HOUR)
    assert (await wants_person(room, connection)).connection_id == connection.id
    assert room.slack.sends == []


async def test_an_access_token_that_died_meanwhile_leads_to_the_person_without_a_refresh(room: Room) -> None:
    await room.connect()
    path = await backed_up(room)
    await restore_backup(room, path)
    token = await room.exchange()
    with pytest.raises(ConnectionRequired):
        await room.exchange(after_unauthorized=token.generation)
    assert room.slack.sends == []


async def test_a_provider_whose_refresh_tokens_stay_goes_on_after_a_restore(room: Room) -> None:
    connection = await room.connect("google")
    path = await backed_up(room)
    room.pass_time(2 * HOUR)
    await room.exchange("google")
    assert await restore_backup(room, path) == {connection.id: RestoreVerdict.UNAFFECTED}
    sightings.forget(room.store.data)  # as the command does
    room.pass_time(60)
    async with second_process(room) as started:
        await journal_recovery.adopt_all(started.vault)
        assert await recovery.watch(started.vault) is None  # nothing that a person should check
    await room.exchange("google")
    room.pass_time(2 * HOUR)
    await room.exchange("google")
    assert [send.outcome for send in room.google.sends] == ["Rotation", "Rotation"]


async def test_connecting_again_heals_a_quarantined_connection(room: Room) -> None:
    connection = await room.connect()
    path = await backed_up(room)
    room.pass_time(2 * HOUR)
    await room.exchange()
    await restore_backup(room, path)
    again = await room.connect()
    assert again.id == connection.id
    room.pass_time(2 * HOUR)
    await room.exchange()
    assert spent_presented(room.slack) == 0


async def test_a_connection_that_was_deleted_since_stays_deleted(room: Room) -> None:
    connection = await room.connect()
    path = await backed_up(room, with_keys=True)
    async with room.database.transaction() as transaction:
        await room.vault.keys.destroy_connection_key(transaction, connection.id)
    assert await restore_backup(room, path) == {connection.id: RestoreVerdict.DELETED}
    assert (await wants_person(room, connection)).reason == "missing"
    found = await connections.get_connection(room.database, connection.id, user_id=connection.user_id)
    assert found is not None
    assert (found.reason, found.has_refresh_token) == ("key_destroyed", False)


async def test_two_receipts_of_one_attempt_before_and_after_a_restore_have_their_own_ids(room: Room) -> None:
    connection = await room.connect()
    await room.disconnect(connection)
    path = await backed_up(room)
    ids: list[object] = []
    for _ in range(2):
        room.slack.probe_outcomes.append(ProbeOutcome.SILENT)
        await revocations.revoke_upstream(room.vault, connection.id)
        receipt = await receipts.get_receipt(room.database, connection.id)
        assert receipt is not None
        claims = check_receipt(receipt.token, await receipts.public_keys(room.database))
        assert (claims["grant"], claims["attempts"]) == (connection.id, 1)
        ids.append(claims["jti"])
        await restore_backup(room, path)
    assert len(set(ids)) == 2


async def test_a_restore_is_written_into_the_activity_and_the_chain_holds(room: Room) -> None:
    connection = await room.connect()
    path = await backed_up(room)
    room.pass_time(2 * HOUR)
    await restore_backup(room, path)
    kinds = [event.kind for event in await list_events(room.database)]
    assert kinds[-2:] == ["connection.quarantined", "vault.restored"]
    quarantined = await room.events("connection.quarantined")
    assert [(one.connection_id, one.user_id) for one in quarantined] == [(connection.id, connection.user_id)]
    assert (await room.events("vault.restored"))[0].details["key_store"] == "kept"
    assert await verify_activity(room.database) == len(kinds)


async def test_a_large_vault_is_judged_and_recorded_in_steps(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "PAGE", 2)
    monkeypatch.setattr(postgres, "EVENTS_WITH_COMMIT", 2)
    held = {(await room.connect(account=f"account-{number}")).id for number in range(5)}
    path = await backed_up(room)
    room.pass_time(2 * HOUR)
    assert await restore_backup(room, path) == dict.fromkeys(held, RestoreVerdict.RECONNECT)
    assert {event.connection_id for event in await room.events("connection.quarantined")} == held
    (told,) = await room.events("vault.restored")
    assert (told.details["connections"], told.details["quarantined"]) == (5, 5)
    assert told.details["known"] == told.sequence - 6
    await verify_activity(room.database)


async def test_sessions_links_and_agents_refresh_tokens_of_the_backup_count_no_more(room: Room) -> None:
    async with room.database.transaction() as transaction:
        await transaction.execute(
            "insert into sessions (tenant, token_hash, user_id, created_at, seen_at, expires_at) "
            "values ('local', :hash, :user, 0, 0, 99999999999)".replace("'local'", ":tenant"),
            {"hash": b"h" * 32, "user": room.alice.user.id, "tenant": room.alice.user.tenant},
        )
    path = await backed_up(room)
    await restore_backup(room, path)
    for table in ("sessions", "tickets", "refresh_tokens", "intents"):
        assert await room.database.fetch(f"select * from {table}") == []


@pytest.mark.parametrize("is_decided", [True, False])
async def test_a_yes_of_the_backup_cannot_be_used_again(room: Room, *, is_decided: bool) -> None:
    """It may have been used since; an open question may have been answered with no."""
    connection = await room.connect()
    principal = room.request().principal
    call = approvals.ToolCall("slack_post", lambda: {"text": "pay"})
    digest = approvals.digest_of(call, account="alice", client_id=principal.client_id, user_id=principal.user_id)
    async with room.database.transaction() as transaction:
        asked, _ = await approvals.ask(
            transaction,
            room.vault.keys,
            call=call,
            principal=principal,
            connection_id=connection.id,
            provider="slack",
            account="alice",
            label="alice",
            scopes=frozenset({"chat:write"}),
            now=room.now,
        )
        if is_decided:
            await approvals.decide(transaction, asked.id, user_id=principal.user_id, is_approved=True, now=room.now)

    async def use(attempt: str) -> bool:
        async with room.database.transaction() as transaction:
            return await approvals.consume(
                transaction,
                principal=principal,
                connection_id=connection.id,
                digest=digest,
                attempt=attempt,
                now=room.now,
            )

    path = await backed_up(room)
    assert await use("first") is is_decided
    await restore_backup(room, path)
    assert not await use("second")
    assert await approvals.list_pending(room.database, room.vault.keys, principal.user_id, now=room.now) == ()


async def test_passkeys_come_back_with_their_person_and_no_browser_stays_signed_in(room: Room) -> None:
    async with room.database.transaction() as transaction:
        made = await passkeys.add(
            transaction,
            room.alice.user.id,
            credential_id=b"\x00credential",
            public_key=b"\xa5public",
            sign_count=7,
            is_synced=True,
            name="Phone",
            now=room.now,
        )
        cookie, _ = await sessions.start_session(
            transaction, room.alice.user.id, now=room.now, lifetime=SESSION_LIFETIME
        )
    path = await backed_up(room)
    async with room.database.transaction() as transaction:
        await passkeys.remove(transaction, room.alice.user.id, made.id)
    await restore_backup(room, path)
    assert await passkeys.find_passkey(room.database, b"\x00credential") == (made, room.alice.user)
    assert await sessions.find_session(room.database, cookie, now=room.now, idle_lifetime=SESSION_IDLE) is None


async def test_after_a_restore_only_admins_have_put_people_into_groups(room: Room) -> None:
    async with room.database.transaction() as transaction:
        for source in ("local", "scim", "openid:company"):
            group = await groups.create_group(transaction, source, now=room.now)
            await groups.add_member(transaction, group.id, room.alice.user.id, source=source, now=room.now)
    await restore_backup(room, await backed_up(room))
    left = await groups.of_person(room.database, room.alice.user.id, now=room.now)
    assert [one.sources for one in left] == [("local",)]


async def put_a_row(room: Room, table: str) -> None:
    """Insert any values: nothing reads them before they are deleted."""
    start, some = f"column {table}.", {"text": "x", "bigint": 1, "bytea": b"x"}
    lines = [line for line in expected_shape(len(schema_files()), keys=False) if line.startswith(start)]
    columns = {name: some[kind] for name, kind, *_ in (line.removeprefix(start).split(" ") for line in lines)}
    names = ", ".join(f":{name}" for name in columns)
    async with room.database.transaction() as transaction:
        await transaction.execute(
            f"insert into {table} ({', '.join(columns)}) values ({names})",
            columns | {"tenant": room.alice.user.tenant},
        )


async def test_nothing_that_counts_once_is_left_of_a_backup(room: Room) -> None:
    """Every table is listed, so that a new one forces a decision."""
    cleared = {
        "sessions", "tickets", "handles", "refresh_tokens", "approvals", "standing_approvals", "approval_answers",
        "intents", "replicas", "notices", "backchannel_pings",
        "directory_tokens", "access_requests",
    }  # fmt: skip
    for table in cleared:
        await put_a_row(room, table)
    path = await backed_up(room)
    await restore_backup(room, path)
    for table in cleared:
        assert await room.database.fetch(f"select * from {table}") == [], table
    kept = {
        "users", "identities", "clients", "apis", "api_clients", "grants", "connections", "narrowed_tokens",
        "delegations", "tool_choices", "passkeys", "upstream_revocations", "limits", "events", "event_batches",
        "event_heads",
        "event_checkpoints",
        "provider_registrations", "mcp_servers", "mcp_tools", "imported_apis",
        "seen",  # guarded by the time of the restore
        "notice_settings", "notice_channels", "user_codes",
        "company_permissions",  # like the delegations, which end with them
        "shared_connections",
        "people_groups", "memberships", "provisioned_people",  # until the directory or a sign-in says otherwise
        "notice_feeds",  # up to an event that is in the backup, too
        "deletions",  # requested again, they change nothing
        "looks",  # an additional look does no harm
        "group_managers",
        "panics",  # what was in progress continues
        "revocation_receipts", "receipt_keys",
        "released_tokens", "agent_receipts",
        "revocation_pauses",  # over within the hour
        "event_notes", "event_tiles", "event_deliveries",  # a restore begins a new log next to them
    }  # fmt: skip
    assert cleared | kept == {table for table in tables() if not table.startswith("keys.")}


async def test_what_is_there_is_replaced_only_when_forced(room: Room) -> None:
    path = await backed_up(room)
    later = await room.connect()
    with pytest.raises(BackupRefused, match="--force"):
        await restore_backup(room, path, force=False)
    assert await connections.get_connection(room.database, later.id, user_id=later.user_id) is not None
    assert await restore_backup(room, path, force=True) == {}
    assert await connections.get_connection(room.database, later.id, user_id=later.user_id) is None


async def test_two_restores_at_once_leave_one_whole_vault(room: Room) -> None:
    held = [await room.connect(account=f"{number}") for number in range(20)]
    path = await backed_up(room)
    for connection in held:
        room.pass_time(HOUR)
        assert await room.exchange(account=connection.account)
    async with second_process(room) as other, asyncio.timeout(30):
        ended = await asyncio.gather(restore_backup(room, path), restore_backup(other, path), return_exceptions=True)
    assert any(isinstance(one, dict) for one in ended)
    assert all(isinstance(one, dict | VaultError) for one in ended), ended
    await verify_activity(room.database)
    for connection in held:
        assert (await wants_person(room, connection)).reason == "needs_reauth"
    assert len(room.slack.sends) == len(held)
    assert spent_presented(room.slack) == 0


async def test_a_damaged_backup_changes_nothing(room: Room) -> None:
    connection = await room.connect()
    path = await backed_up(room)
    whole = path.read_bytes()
    middle = bytearray(whole)
    middle[-40] ^= 1
    head = whole.replace(b'"with_keys": false', b'"with_keys": true ', 1)
    for damaged in (whole[:-1], whole[:-600], bytes(middle), head, whole + b"\x00" * 40, b"PK" + whole[2:], b""):
        assert damaged != whole
        path.write_bytes(damaged)
        with pytest.raises(BackupRefused):
            await restore_backup(room, path)
    assert (await room.row(connection)).refresh_sealed is not None
    path.write_bytes(whole)
    assert await restore_backup(room, path) == {connection.id: RestoreVerdict.UNTIL_EXPIRY}


async def test_a_backup_holds_no_token_and_is_readable_by_its_owner_only(room: Room) -> None:
    await room.connect()
    path = await backed_up(room, with_keys=True)
    content = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"CANARY" not in content
    assert b"alice" not in content
    assert [found.name for found in path.parent.iterdir() if "partial" in found.name] == []
    with pytest.raises(BackupRefused, match="already exists"):
        await backed_up(room)
    assert path.read_bytes() == content


async def test_a_backup_and_a_restore_tell_how_many_rows_are_done(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = defaultdict[str, list[tuple[int, int | None]]](list)

    def tell(step: str, done: int, total: int | None) -> None:
        told[step].append((done, total))

    monkeypatch.setattr(backups, "LOAD_PAGE", 1)
    async with open_room(sqlite_store) as room:
        await room.connect()
        await room.connect("google")
        path, keys, source = sqlite_store.data / "vault.backup", room.vault.keys, source_of(sqlite_store)
        async with snapshot(sqlite_store.url, data=sqlite_store.data) as seen:
            made = await backups.write_backup(path, seen, ring=keys, with_keys=False, now=room.now, tell=tell)
        backup = await Backup.open(path, source)
        await backups.restore(backup, room.database, source=source, policies={}, force=True, tell=tell)
    count = sum(made.rows.values())
    assert told["Writing rows"] == [(done, None) for done in accumulate(filter(None, made.rows.values()))]
    assert told["Checking the backup, row"] == [(done, None) for done in range(1, count + 1)]
    assert told["Loading rows"] == [(done, count) for done in range(1, count)]


async def test_another_key_does_not_open_a_backup(room: Room) -> None:
    path = await backed_up(room)
    key_file = room.store.data / "master.key"
    kept = key_file.read_text()
    key_file.write_text("A" * 43 + "=\n")
    with pytest.raises(KeyUnavailable, match="can't open"):
        await Backup.open(path, source_of(room.store))
    key_file.write_text(kept)
    assert await Backup.open(path, source_of(room.store))


async def test_a_passphrase_seals_a_backup_and_only_it_opens_it(room: Room, tmp_path: Path) -> None:
    def passphrase(words: str) -> KeySource:
        file = tmp_path / f"{words[:4]}.txt"
        file.write_text(words)
        file.chmod(0o600)
        return PassphraseKeySource({}, file=file)

    path = await backed_up(room, source=passphrase("correct horse battery staple"))
    with pytest.raises(KeyUnavailable, match="passphrase"):
        await Backup.open(path, passphrase("wrong horse battery staples"))
    assert await restore_backup(room, path, source=passphrase("correct horse battery staple")) == {}


async def fresh(room: Room, empty: Store, *, with_key: bool = True) -> None:
    if with_key:
        shutil.copy2(room.store.data / "master.key", empty.data)


async def test_a_backup_without_the_key_store_is_refused_where_none_is(room: Room, tmp_path: Path) -> None:
    await room.connect()
    path = await backed_up(room)
    elsewhere = Store(f"sqlite://{tmp_path}/else/vault.sqlite", room.store.data)
    database = await elsewhere.open()
    try:
        backup = await Backup.open(path, source_of(room.store))
        with pytest.raises(KeyUnavailable, match="--with-keys"):
            await backups.restore(backup, database, source=source_of(room.store), policies={}, force=False)
        assert await database.fetch("select * from users") == []
    finally:
        await database.close()


async def test_a_backup_with_the_key_store_brings_the_vault_to_another_database(room: Room, tmp_path: Path) -> None:
    connection = await room.connect("google")
    path = await backed_up(room, with_keys=True)
    elsewhere = Store(f"sqlite://{tmp_path}/else/vault.sqlite", room.store.data)
    database = await elsewhere.open()
    try:
        backup = await Backup.open(path, source_of(room.store))
        judged = await backups.restore(
            backup, database, source=source_of(room.store), policies={"google": google()}, force=False
        )
        assert [one.connection_id for one in judged] == [connection.id]
        assert (await list_events(database))[-1].details["key_store"] == "restored"
        keys = await elsewhere.open_keys(database)
        key = await keys.load_key(database, user_id=connection.user_id, connection_id=connection.id)
        row = await database.fetch_one("select access_sealed, access_generation, account from connections")
        assert row is not None
        opened = key.open(
            row["access_sealed"],
            purpose=connections.ACCESS_TOKEN,
            provider="google",
            account="alice",
            generation=1,
        )
        assert opened in room.google.issued
    finally:
        await database.close()


async def test_a_key_store_of_another_vault_is_refused(room: Room, tmp_path: Path) -> None:
    path = await backed_up(room, with_keys=True)
    other = Store(f"sqlite://{tmp_path}/else/vault.sqlite", room.store.data)
    database = await other.open()
    try:
        await other.open_keys(database)
        backup = await Backup.open(path, source_of(room.store))
        with pytest.raises(BackupRefused, match="another vault"):
            await backups.restore(backup, database, source=source_of(room.store), policies={}, force=True)
    finally:
        await database.close()


@pytest.mark.requirement("V-10")
async def test_a_backup_under_load_is_one_instant_of_both_stores(room: Room) -> None:
    """Every connection in the file has its key in the file, even while accounts are being connected."""
    stop = asyncio.Event()

    async def connect_accounts() -> int:
        count = 0
        while not stop.is_set():
            await room.connect(account=f"account-{count}")
            count += 1
        return count

    writing = asyncio.create_task(connect_accounts())
    await room.connect("google")
    path = await backed_up(room, with_keys=True)
    stop.set()
    await writing
    backup = await Backup.open(path, source_of(room.store))
    held: dict[str, set[object]] = {"connections": set(), "keys.connection_keys": set()}
    for table, row in backup.rows():
        if table in held:
            held[table].add(row.get("connection_id") or row["id"])
    assert held["connections"]
    assert held["connections"] == held["keys.connection_keys"]


async def test_a_refresh_token_is_gone_from_the_restored_row_not_only_hidden(room: Room) -> None:
    connection = await room.connect()
    before = await room.row(connection)
    path = await backed_up(room)
    await restore_backup(room, path)
    after = await room.row(connection)
    assert after.refresh_sealed is None
    assert after.generation == (room.now + 60) * 1000 > before.generation
    await exchange(room.request(), vault=room.vault, now=room.now)


async def test_a_second_restore_of_one_backup_takes_up_no_answer_from_between_the_two(room: Room) -> None:
    """What the person connected after the first restore stays in the journal, but ended with the second."""
    for _ in range(2):  # the time of a second consent is its generation
        await room.connect(consented_ms=room.now * 1000)
    path = await backed_up(room)
    for _ in range(2):
        await restore_backup(room, path)
        await room.connect(consented_ms=room.now * 1000)
        newest = room.slack.families[-1]
        for _ in range(3):
            room.pass_time(3600)
            assert await journal_recovery.adopt_all(room.vault) == 0
            await room.exchange()
    assert newest.is_alive
    assert room.slack.sends[-1].refresh_token in newest.spent
    assert spent_presented(room.slack) == 0


async def test_a_backup_of_what_an_earlier_restore_left_takes_up_no_answer_from_after_it(room: Room) -> None:
    """The connections in it have no refresh token and work until their access tokens expire."""
    connection = await room.connect(consented_ms=room.now * 1000)
    first = await backed_up(room)
    await restore_backup(room, first)
    first.unlink()
    path = await backed_up(room)
    await room.connect(consented_ms=room.now * 1000)
    for _ in range(3):
        room.pass_time(3600)
        await room.exchange()
    assert await restore_backup(room, path) == {connection.id: RestoreVerdict.UNAFFECTED}
    assert await journal_recovery.adopt_all(room.vault) == 0
    assert (await room.row(connection)).refresh_sealed is None
