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
from vault.storage.database import schema_files
from vault.upstream import RotationMode, UpstreamPolicy


def test_the_header_can_be_read_and_says_what_is_in(tmp_path: Path) -> None:
    header = backups.Header(1, "v", 1, with_keys=True, kek_id="k", is_passphrase=False, wrapped=b"w")
    assert backups.Header.decode(header.encode()) == header
    with pytest.raises(BackupRefused):
        backups.Header.decode(json.dumps({"created_at": 1}).encode())


class AskedKeySource:
    """A key source that has one key, and records what it is asked for."""

    fix = "nothing"

    def __init__(self) -> None:
        self.key = LocalKey(bytes(32), kind="asked")
        self.asked: list[StoredKey] = []

    def describe(self) -> str:
        return "here"

    async def open(self, stored: StoredKey) -> LocalKey:
        self.asked.append(stored)
        return self.key

    async def create(self, known: Collection[str]) -> MadeKey:
        raise NotImplementedError


async def open_backup(path: Path, source: AskedKeySource, *, schema: int, master: bytes | None = None) -> Backup:
    wrapped = source.key.wrap(bytes(32), backups._CONTEXT)
    header = backups.Header(1, "v", schema, with_keys=False, kek_id="k", is_passphrase=False, wrapped=wrapped)
    header = replace(header, master=master)
    with path.open("wb") as file:
        SealedWriter(file, key=bytes(32), header=header.encode()).finish()
    return await Backup.open(path, source)


@pytest.mark.parametrize("master", [b"as its source wrapped it", None])
async def test_a_key_service_is_asked_for_the_key_as_it_wrapped_it(tmp_path: Path, master: bytes | None) -> None:
    source = AskedKeySource()
    backup = await open_backup(tmp_path / "b", source, schema=len(schema_files()), master=master)
    assert [one.wrapped for one in source.asked] == [master or backup.header.wrapped]


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
