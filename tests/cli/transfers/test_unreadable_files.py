"""Files of other vaults that can't be read, each next to one that differs only in the reason."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pyrage
import pytest
from argon2.low_level import Type, hash_secret_raw
from cryptography.fernet import Fernet

from server.administration.account_imports import contextforge, csv_file, export_file
from server.administration.account_imports.accounts import LONGEST, MOST, read_records
from server.administration.account_imports.contextforge import WRONG, Secret
from server.administration.actor import ChangeRefused
from server.administration.sealed_files import FORMAT, SealRefused, open_sealed, seal

SECRET = Secret("a secret of ContextForge")
SIZE = 512 * 1024 * 1024


def write_content(folder: Path, content: bytes) -> Path:
    file = folder / "file"
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"a": 1}\n\n{"a": 2}\n', ""),
        (b'{"a": 1}\n{"a": 2\n', "line 2 is not JSON"),
        (b'{"a": "\xc3\xa4"}', ""),
        (b'{"a": "\xc3"}', "isn't UTF-8 text"),
        (b'[{"a": 1}]', ""),
        (b'"a"', "it contains no JSON object"),
        (b'[{"a": 1}, 2]', "it contains values that aren't JSON objects"),
    ],
)
def test_a_file_holds_json_objects(tmp_path: Path, content: bytes, why: str) -> None:
    file = write_content(tmp_path, content)
    if not why:
        assert "a" in read_records(file)[0]
        return
    with pytest.raises(ChangeRefused, match=why):
        read_records(file)


def test_a_file_has_a_length(tmp_path: Path) -> None:
    assert len(read_records(write_content(tmp_path, b"[{}" + b",{}" * (MOST - 1) + b"]"))) == MOST
    with pytest.raises(ChangeRefused, match="more than 100,000 records"):
        read_records(write_content(tmp_path, b"[{}" + b",{}" * MOST + b"]"))
    os.truncate(tmp_path / "file", SIZE + 1)  # a sparse file
    with pytest.raises(ChangeRefused, match="larger than 512 MiB"):
        read_records(tmp_path / "file")


def database(file: Path) -> Path:
    with closing(sqlite3.connect(file)) as made:
        made.execute("create table gateways (id, name, oauth_config)")
        made.execute(
            "create table oauth_tokens"
            " (id, gateway_id, app_user_email, access_token, refresh_token, expires_at, scopes, created_at)"
        )
        made.execute("insert into gateways values (1, 'slack', '{}')")
        made.execute("insert into oauth_tokens values (1, 1, 'ada', 'at', 'rt', null, '[]', 1)")
        made.commit()
    return file


def test_a_database_is_whole_and_nobody_writes_it(tmp_path: Path) -> None:
    file = database(tmp_path / "context.db")
    (one,) = contextforge.read(file, SECRET)
    assert (one.refresh_token, one.obstacle) == ("rt", "")
    journal = tmp_path / "context.db-wal"
    journal.write_bytes(b"")
    assert contextforge.read(file, SECRET) == (one,)
    journal.write_bytes(b"more")
    with pytest.raises(ChangeRefused, match="ContextForge has it open"):
        contextforge.read(file, SECRET)
    journal.unlink()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ChangeRefused, match="can't read"):
        contextforge.read(file, SECRET)
    file.unlink()
    with pytest.raises(ChangeRefused, match="No such file"):
        contextforge.read(file, SECRET)


def bundle(*, passes: int = 1, **changes: object) -> str:
    salt = b"0123456789abcdef"
    made = hash_secret_raw(
        SECRET.text.encode(), salt, time_cost=passes, memory_cost=64, parallelism=1, hash_len=32, type=Type.ID
    )
    token = Fernet(base64.urlsafe_b64encode(made)).encrypt(b"rt").decode()
    whole: Mapping[str, object] = {"salt": base64.b64encode(salt).decode(), "token": token, "t": 1, "m": 64, "p": 1}
    return "v2:" + json.dumps({**whole, **changes})


@pytest.mark.parametrize(
    ("stored", "token"),
    [
        (bundle(), "rt"),
        (bundle(passes=16, t=16), "rt"),
        (bundle(passes=17, t=17), ""),
        (bundle(m=1024 * 1024 + 1), ""),
        (bundle(p="1"), ""),
        (bundle(p=0), ""),
        ("v2:rt", ""),
        ("gAAAArt", ""),
        ("Art", "Art"),
    ],
)
def test_a_sealed_token_opens_at_costs_that_somebody_sets(tmp_path: Path, stored: str, token: str) -> None:
    row = {"app_user_email": "ada", "gateway": "slack", "refresh_token": stored}
    (one,) = contextforge.read(write_content(tmp_path, json.dumps([row]).encode()), SECRET)
    assert (one.refresh_token, one.obstacle) == (token, "" if token else WRONG)


def test_a_table_is_there_and_is_text(tmp_path: Path) -> None:
    line = "user,provider,account,refresh_token,scopes\n"
    with pytest.raises(ChangeRefused, match="No such file"):
        csv_file.read(tmp_path / "file")
    with pytest.raises(ChangeRefused, match="isn't UTF-8 text"):
        csv_file.read(write_content(tmp_path, line.encode() + b"\xff"))
    assert csv_file.read(write_content(tmp_path, line.encode())) == ()


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("ada,slack,U1,rt,chat:write", ""),
        (",slack,U1,rt,chat:write", "line 2: user is empty"),
        (f"ada,slack,U1,{'r' * LONGEST},chat:write", ""),
        (f"ada,slack,U1,{'r' * (LONGEST + 1)},chat:write", "line 2: too many or too long values"),
    ],
)
def test_a_row_of_a_table_is_whole(tmp_path: Path, row: str, why: str) -> None:
    file = write_content(tmp_path, f"user,provider,account,refresh_token,scopes\n{row}\n".encode())
    if not why:
        assert len(csv_file.read(file)) == 1
        return
    with pytest.raises(ChangeRefused, match=why):
        csv_file.read(file)


def test_a_table_has_a_length(tmp_path: Path) -> None:
    head, row = "user,provider,account,refresh_token,scopes\n", "ada,slack,U1,rt,s\n"
    assert len(csv_file.read(write_content(tmp_path, (head + row * MOST).encode()))) == MOST
    with pytest.raises(ChangeRefused, match=f"line {MOST + 2}: too many or too long values"):
        csv_file.read(write_content(tmp_path, (head + row * (MOST + 1)).encode()))


def test_an_export_is_there_and_of_this_version(tmp_path: Path) -> None:
    key = pyrage.x25519.Identity.generate()
    identity, recipient = tmp_path / "key", str(key.to_public())
    identity.write_text(str(key))
    right = {"format": FORMAT, "version": 1, "accounts": []}
    for content in (right | {"version": 2}, right | {"format": "another"}, []):
        with pytest.raises(ChangeRefused, match="isn't an export of this version"):
            export_file.read(
                write_content(tmp_path, seal(json.dumps(content).encode(), recipients=(recipient,))), identity=identity
            )
    sealed = seal(json.dumps(right).encode(), recipients=(recipient,))
    assert export_file.read(write_content(tmp_path, sealed), identity=identity) == ()
    with pytest.raises(ChangeRefused, match="No such file"):
        export_file.read(tmp_path / "other", identity=identity)
    with pytest.raises(SealRefused, match=r"can't read the key .*: No such file"):
        open_sealed(sealed, identity=tmp_path / "other")
    with pytest.raises(SealRefused, match="isn't a key"):
        open_sealed(sealed, identity=write_content(tmp_path, b"AGE-SECRET-KEY-1"))
