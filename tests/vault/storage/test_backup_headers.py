"""What a backup's header says: which key opens it, which schemas this program restores, and what becomes of a row."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from vault.backup import backups
from vault.backup.backups import Backup
from vault.backup.quarantine import RestoreVerdict, judge
from vault.keys.sealed_file import BackupRefused, SealedWriter
from vault.keys.sources.local import LocalKey
from vault.keys.sources.source import MadeKey, StoredKey
from vault.refusals import KeyUnavailable
from vault.storage.database import schema_files
from vault.upstream import RotationMode, UpstreamPolicy


def test_the_header_can_be_read_and_says_what_is_in(tmp_path: Path) -> None:
    header = backups.Header(1, "v", 1, with_keys=True, kek_id="k", is_passphrase=False, wrapped=b"w")
    assert backups.Header.decode(header.encode()) == header
    with pytest.raises(BackupRefused):
        backups.Header.decode(json.dumps({"created_at": 1}).encode())


FACTS = {"created_at": 1, "vault": "v", "schema": 1, "with_keys": True, "kek_id": "k", "is_passphrase": False}


@pytest.mark.parametrize(
    "changes", [{"wrapped": "d!w=="}, {"master": "d!w=="}, {"created_at": None}, {"created_at": "today"}, None]
)
def test_a_header_with_other_content_is_refused(changes: dict[str, object] | None) -> None:
    facts: dict[str, object] = {**FACTS, "wrapped": "dw==", "master": "bQ=="}
    header = backups.Header.decode(json.dumps(facts).encode())
    assert (header.wrapped, header.master, header.with_keys, header.is_passphrase) == (b"w", b"m", True, False)
    content = "not JSON" if changes is None else json.dumps({**facts, **changes})
    with pytest.raises(BackupRefused) as refused:
        backups.Header.decode(content.encode())
    assert refused.value.detail == "header"


def test_an_open_backup_shows_no_key(tmp_path: Path) -> None:
    header = backups.Header.decode(json.dumps({**FACTS, "wrapped": "dw=="}).encode())
    assert "CANARY" not in repr(Backup(tmp_path / "b", header, b"CANARY"))


class AskedKeySource:
    """A key source that has one key, and records what it is asked for."""

    fix = "ask someone else"

    def __init__(self, *, knows_keys: bool = True) -> None:
        self.key = LocalKey(bytes(32), kind="asked")
        self.knows_keys = knows_keys
        self.asked: list[StoredKey] = []

    def describe(self) -> str:
        return "here"

    async def open(self, stored: StoredKey) -> LocalKey | None:
        self.asked.append(stored)
        return self.key if self.knows_keys else None

    async def create(self, known: Collection[str]) -> MadeKey:
        raise NotImplementedError


async def open_backup(path: Path, source: AskedKeySource, *, schema: int, **changes: object) -> Backup:
    wrapped = source.key.wrap(bytes(32), backups._CONTEXT)
    header = backups.Header(1, "v", schema, with_keys=False, kek_id="k", is_passphrase=False, wrapped=wrapped)
    header = replace(header, **changes)
    with path.open("wb") as file:
        SealedWriter(file, key=bytes(32), header=header.encode()).finish()
    return await Backup.open(path, source)


@pytest.mark.parametrize("master", [b"as its source wrapped it", None])
async def test_a_key_service_is_asked_for_the_key_as_it_wrapped_it(tmp_path: Path, master: bytes | None) -> None:
    source = AskedKeySource()
    backup = await open_backup(tmp_path / "b", source, schema=len(schema_files()), master=master)
    assert [one.wrapped for one in source.asked] == [master or backup.header.wrapped]


@pytest.mark.parametrize(
    ("is_passphrase", "fix"), [(True, "pass the passphrase that it was made with"), (False, "ask someone else")]
)
@pytest.mark.parametrize("knows_keys", [True, False])
async def test_a_backup_that_its_key_doesnt_open_says_which_key_it_needs(
    tmp_path: Path, fix: str, *, is_passphrase: bool, knows_keys: bool
) -> None:
    made: dict[str, object] = {"is_passphrase": is_passphrase}
    schema = len(schema_files())
    assert (await open_backup(tmp_path / "b", AskedKeySource(), schema=schema, **made)).key == bytes(32)
    damaged = made | {"wrapped": bytes(64)} if knows_keys else made
    with pytest.raises(KeyUnavailable) as refused:
        await open_backup(tmp_path / "b", AskedKeySource(knows_keys=knows_keys), schema=schema, **damaged)
    assert (str(refused.value), refused.value.detail) == (f"can't open the backup: {fix}", "k")


async def test_a_backup_of_another_schema_opens_where_the_newest_file_lets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *before, last = schema_files()
    monkeypatch.setattr(backups, "schema_files", lambda: (*before, replace(last, compatible_from=last.number - 1)))
    for schema, opens in ((-2, False), (-1, True), (0, True), (1, False)):
        with contextlib.nullcontext() if opens else pytest.raises(BackupRefused, match="schema version"):
            await open_backup(tmp_path / "b", AskedKeySource(), schema=last.number + schema)


@pytest.mark.parametrize(
    ("changes", "mode", "verdict"),
    [
        ({}, RotationMode.REVOKES, RestoreVerdict.UNTIL_EXPIRY),
        ({"access_expires_at": None}, RotationMode.REVOKES, RestoreVerdict.UNTIL_EXPIRY),
        ({"access_expires_at": 1005}, RotationMode.REVOKES, RestoreVerdict.RECONNECT),
        ({"access_expires_at": 1006}, RotationMode.REVOKES, RestoreVerdict.UNTIL_EXPIRY),
        ({"has_access_token": 0}, RotationMode.GRACE, RestoreVerdict.RECONNECT),
        ({"has_access_token": 0}, RotationMode.NONE, RestoreVerdict.UNAFFECTED),
        ({"has_refresh_token": 0}, RotationMode.STRICT, RestoreVerdict.UNAFFECTED),
        ({"state": "needs_reauth"}, RotationMode.NONE, RestoreVerdict.RECONNECT),
        ({"state": "needs_reauth", "has_key": 0}, RotationMode.NONE, RestoreVerdict.DELETED),
    ],
)
def test_what_becomes_of_a_restored_connection(
    changes: dict[str, int | str | None], mode: RotationMode, verdict: RestoreVerdict
) -> None:
    row: dict[str, int | str | None] = {"has_key": 1, "state": "active", "has_refresh_token": 1, "has_access_token": 1}
    expiry: dict[str, int | str | None] = {"access_expires_at": 9000}
    assert judge(row | expiry | changes, policy=UpstreamPolicy("slack", rotation=mode), now=1000) is verdict
