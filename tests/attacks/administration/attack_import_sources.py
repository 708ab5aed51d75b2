"""`import` from other vaults, on both databases: others' names, foreign apps, hostile JSON, tables, and keys."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pyrage
import pytest

from tests.attacks.administration.attack_import import HIDDEN, accounts, person_of
from tests.attacks.target import Target, command_line
from tests.support.doubles.scripted_server import Reply, scripted_server
from tests.support.person import without_own_markup

SCOPE = "files.content.read"
Record = dict[str, object]
SOURCES = ("auth0", "nango", "better-auth", "contextforge", "composio")


async def bring(vault: Target, source: str, file: Path, *options: str | Path) -> tuple[int, list[str], str]:
    """Run the command next to the running vault; return exit code, each account's outcome, and all output."""
    words = ("import", source, str(file), "--apply", "--json", *map(str, options))
    code, out, err = await command_line(vault).run(*words)
    assert "Traceback" not in out + err, err
    assert code in {0, 1, 2}, (code, err)
    assert not any(one in out + err for one in HIDDEN), ascii(out + err)[:500]
    outcomes = [str(one["outcome"]) for one in json.loads(out)] if out.startswith("[") else []
    return code, outcomes, out + err


def write_file(folder: Path, content: object) -> Path:
    file = folder / f"{secrets.token_hex(4)}.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def record(source: str, name: str, **changes: object) -> Record:
    """One honest account of this person in the source's format, with `changes` to its members."""
    token = f"rt-{secrets.token_hex(8)}"
    whole: Record
    match source:
        case "auth0":
            identity = {"connection": "dropbox", "provider": "dropbox", "user_id": "U1", "refresh_token": token}
            whole = {"user_id": "x|1", "email": name, "email_verified": True, "identities": [identity]}
        case "nango":
            credentials = {"type": "OAUTH2", "access_token": "at", "refresh_token": token, "raw": {"scope": SCOPE}}
            whole = {"provider": "dropbox", "connection_id": name, "credentials": credentials}
        case "better-auth":
            whole = {"email": name, "providerId": "dropbox", "accountId": "U1", "refreshToken": token, "scope": SCOPE}
        case "contextforge":
            whole = {"app_user_email": name, "gateway": "dropbox", "refresh_token": token, "access_token": "at"}
            whole |= {"expires_at": "2026-11-27", "scopes": [SCOPE], "oauth_config": {"client_id": "ours"}}
        case _:
            value = {"refresh_token": token, "access_token": "at", "expires_in": 1, "scope": SCOPE}
            whole = {"user_id": name, "toolkit": {"slug": "dropbox"}, "auth_config": {}, "status": "ACTIVE"}
            whole["state"] = {"authScheme": "OAUTH2", "val": value}
    return whole | changes


def options(source: str) -> tuple[str, ...]:
    return ("--scopes", f"dropbox={SCOPE}") if source == "auth0" else ()


@pytest.mark.parametrize("source", SOURCES)
async def test_an_honest_account_is_taken_over_and_its_token_is_nowhere(
    vault: Target, tmp_path: Path, source: str
) -> None:
    """The twin of the attacks below."""
    name, person = await person_of(vault)
    one = record(source, name)
    token = next(word for word in json.dumps(one).replace('"', " ").split() if word.startswith("rt-"))
    code, outcomes, said = await bring(vault, source, write_file(tmp_path, [one]), *options(source))
    assert (code, outcomes) == (0, ["imported"]), said
    assert len(await accounts(person)) == 1
    assert token not in said
    for path in ("/connections", "/account/data", "/activity/export?format=jsonl"):
        assert token not in (await person.http.get(path)).text, path
    for file in vault.server.data.rglob("*"):
        assert not file.is_file() or token.encode() not in file.read_bytes(), file


def look_alikes(name: str) -> dict[str, tuple[str, Record]]:
    """Records that would make someone else's account this person's, by values that are self-chosen or unverified."""
    return {
        "an address that nobody verified": ("auth0", record("auth0", name, email_verified=False)),
        "a nickname": ("auth0", record("auth0", "x@evil.example", nickname=name, username=name)),
        "a name and no address": ("auth0", record("auth0", "", nickname=name, username=name)),
        "another verdict": ("auth0", record("auth0", name, email_verified="no")),
        "a list as a verdict": ("auth0", record("auth0", name, email_verified=[True])),
        "an address that nobody verified there": ("better-auth", record("better-auth", name, emailVerified=False)),
        "a blank": ("nango", record("nango", f"{name} x")),
        "a Cyrillic letter": ("nango", record("nango", name.replace("p", "\u0440"))),
        "a pattern": ("composio", record("composio", "%")),
        "NUL": ("composio", record("composio", f"{name}\0")),
        "a list": ("contextforge", record("contextforge", name, app_user_email=[name])),
        "an object": ("composio", record("composio", name, user_id={"id": name})),
        "nothing": ("nango", record("nango", "")),
    }


@pytest.mark.parametrize("source", SOURCES)
async def test_nobody_elses_account_becomes_a_persons(vault: Target, tmp_path: Path, source: str) -> None:
    name, person = await person_of(vault)
    rows = {what: row for what, (one, row) in look_alikes(name).items() if one == source}
    code, outcomes, said = await bring(vault, source, write_file(tmp_path, [*rows.values()]), *options(source))
    assert code == 1, said
    assert dict(zip(rows, outcomes, strict=True)) == dict.fromkeys(rows, "no such user, or disabled")
    assert await accounts(person) == []


def misfits(name: str) -> dict[str, tuple[str, Record]]:
    """Records that name a foreign app, another provider, or no usable token."""
    better, forge = record("better-auth", name), record("contextforge", name)
    state = {"authScheme": "OAUTH2", "val": {"refresh_token": "rt", "access_token": "at", "scope": SCOPE}}
    credentials = {"type": "OAUTH2", "access_token": "at", "refresh_token": "rt", "raw": {"scope": SCOPE}}
    odd: tuple[object, ...] = (7, True, ["rt"], {"rt": "rt"}, "", " ", "r\0t", "r\x1bt", "x" * 20_000, None)
    tokens = {f"the token {ascii(one)[:20]}": ("better-auth", better | {"refreshToken": one}) for one in odd[1:]}
    foreign = credentials | {"config_override": {"client_id": "theirs"}}
    return {
        **tokens,
        "another app": ("contextforge", forge | {"oauth_config": {"client_id": "theirs"}}),
        "another app at Nango": ("nango", record("nango", name, credentials=foreign)),
        "Composio's app": ("composio", record("composio", name, auth_config={"is_composio_managed": True})),
        "an unknown provider": ("better-auth", better | {"providerId": "unknown"}),
        "a path": ("better-auth", better | {"providerId": "../dropbox"}),
        "a provider that isn't set up": ("better-auth", better | {"providerId": "linear"}),
        "another token address": ("contextforge", forge | {"gateway": "x", "oauth_config": {"token_url": "https://x"}}),
        "a scope it doesn't have": ("better-auth", better | {"scope": "admin"}),
        "a scope with an escape": ("better-auth", better | {"scope": "\x1b[2Jadmin\u202e"}),
        "every scope": ("better-auth", better | {"scope": "*"}),
        "scopes as an object": ("composio", record("composio", name, state=state | {"val": {"scope": {"a": 1}}})),
        "an account with NUL": ("better-auth", better | {"accountId": "U\0"}),
        "no account": ("better-auth", better | {"accountId": ""}),
        "a kind with an escape": ("nango", record("nango", name, credentials={"type": "\x1b[2J\u202e"})),
        "a status with an escape": ("composio", record("composio", name, status="\x1b[2J\u202e")),
        "half a pair": ("better-auth", better | {"accountId": "\ud800"}),
    }


@pytest.mark.parametrize("source", ["better-auth", "contextforge", "nango", "composio"])
async def test_what_does_not_belong_here_is_left_out_in_words(vault: Target, tmp_path: Path, source: str) -> None:
    name, person = await person_of(vault)
    rows = {what: row for what, (one, row) in misfits(name).items() if one == source}
    code, outcomes, said = await bring(vault, source, write_file(tmp_path, [*rows.values()]))
    assert code == 1, said
    told = dict(zip(rows, outcomes, strict=True))
    assert not {what for what, outcome in told.items() if outcome in {"imported", "already connected", ""}}, told
    assert await accounts(person) == []


MEMBERS = ("email", "identities", "credentials", "state", "toolkit", "raw", "scopes", "tags", "end_user", "provider")
MEMBERS += ("providerId", "oauth_config", "auth_config", "connected_accounts", "gateway")
FILES: dict[str, str] = {
    "nothing": "",
    "no JSON": "<html>",
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep in a record": '[{"email": ' + "[" * 900 + "]" * 900 + "}]",
    "scalars": "[1, 2, 3]",
    "a string": '"alice"',
    "NaN": '[{"email": NaN, "user_id": NaN, "providerId": NaN}]',
    "infinity": '[{"email": 1e999, "user_id": 1e999, "scopes": 1e999}]',
    "a long number": '[{"user_id": ' + "9" * 5000 + "}]",
    "half a pair": '[{"email": "\\ud800", "user_id": "\\ud800", "connection_id": "\\ud800", "providerId": "\\ud800"}]',
    "empty records": json.dumps([{}] * 50),
    "all wrong": json.dumps([dict.fromkeys(MEMBERS, one) for one in (1, "x", [], [1], {})]),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
async def test_a_file_that_is_none_is_refused_in_words(target: Target, tmp_path: Path, what: str) -> None:
    file = write_file(tmp_path, FILES[what])
    before = await target.command("connections", "list", "--user", "alice", "--json")
    for code, outcomes, said in await asyncio.gather(*(bring(target, one, file) for one in ("auth0", "composio"))):
        assert code != 0 or not outcomes, said
        assert said.strip()
    assert await target.command("connections", "list", "--user", "alice", "--json") == before


async def test_no_name_or_label_from_a_file_is_code(vault: Target, tmp_path: Path) -> None:
    """The names become people, and pages show the labels."""
    names = (
        "<script>alert(1)</script>",
        "=cmd|' /C calc'!A0",
        "{{ 7*7 }}",
        "x" * 5000,
        "'; drop table users; --",
        "a/../b",
    )
    mark = secrets.token_hex(3)
    rows = [record("composio", f"{mark}{one}") for one in names]
    hidden = ("a\u202eb", "a\x1b[2Jb", "a\x00b", "a\u2028b", "\ufeffab")
    rows += [record("composio", f"{mark}{one}") for one in hidden]
    code, outcomes, _ = await bring(vault, "composio", write_file(tmp_path, rows), "--create-people")
    assert code == 1
    assert outcomes.count("imported") <= len(names)
    people = await vault.alice.open("/administration/people")
    text = without_own_markup(people.text)
    assert "<script>alert" not in text
    assert ">49<" not in text
    assert not any(one in text for one in HIDDEN.replace("\u2028", ""))


async def test_no_address_of_a_file_is_called(vault: Target, tmp_path: Path) -> None:
    """A file may name endpoints, but its tokens go only to the endpoints of our provider file."""
    name, _ = await person_of(vault)
    async with scripted_server(lambda _: Reply(200)) as evil:
        config = {"client_id": "ours", "token_url": f"{evil.url}/token", "authorize_url": evil.url, "issuer": evil.url}
        raw = {"scope": SCOPE, "instance_url": evil.url, "api_domain": evil.url, "token_url": evil.url}
        credentials = {"type": "OAUTH2", "access_token": "at", "refresh_token": "rt", "raw": raw}
        rows = {
            "contextforge": record("contextforge", name, oauth_config=config),
            "nango": record("nango", name, credentials=credentials, connection_config={"subdomain": evil.url}),
            "composio": record("composio", name, state={"authScheme": "OAUTH2", "val": raw | credentials}),
        }
        for source, row in rows.items():
            await bring(vault, source, write_file(tmp_path, [row]))
        assert evil.connections == 0


async def test_two_imports_at_once_take_an_account_over_once(vault: Target, tmp_path: Path) -> None:
    name, person = await person_of(vault)
    file = write_file(tmp_path, [record("better-auth", name)])
    both = await asyncio.gather(*(bring(vault, "better-auth", file) for _ in range(2)))
    assert [outcomes for _, outcomes, _ in both].count(["imported"]) >= 1, both
    assert len(await accounts(person)) == 1


# ContextForge's database and its key


def database(file: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(file)) as made:
        for one in statements:
            made.execute(one)
        made.commit()
    return file


ENDLESS = "with recursive c(n) as (select 1 union all select n + 1 from c)"
GATEWAYS = "create table gateways (id text, name text, oauth_config json)"
COLUMNS = ("id", "gateway_id", "app_user_email", "access_token", "refresh_token", "expires_at", "scopes", "created_at")
TABLE = f"create table oauth_tokens ({', '.join(COLUMNS)})"
TOKENS = f"create view oauth_tokens as {ENDLESS} select {', '.join(f'n as {one}' for one in COLUMNS)} from c"
PLACES = f"create view gateways as {ENDLESS} select n as id, '' as name, '' as oauth_config from c"
BYTES = "insert into oauth_tokens values (1, 1, x'ff', x'00', x'ff', 1, x'ff', 1)"
DATABASES: dict[str, tuple[str, ...]] = {
    "other tables": ("create table x (y)",),
    "a view that never ends": (GATEWAYS, TOKENS),
    "gateways that never end": (TABLE, PLACES),
    "bytes": (GATEWAYS, TABLE, "insert into gateways values (1, x'ff00', x'ff')", BYTES),
    "empty": (GATEWAYS, TABLE),
}


@pytest.mark.parametrize("what", DATABASES)
async def test_a_hostile_database_is_refused_soon_and_left_alone(target: Target, tmp_path: Path, what: str) -> None:
    file = database(tmp_path / "mcp.db", *DATABASES[what])
    before, started = file.read_bytes(), time.monotonic()
    async with asyncio.timeout(60):
        code, outcomes, said = await bring(target, "contextforge", file)
    assert code != 0 or not outcomes, said
    assert time.monotonic() - started < 45
    assert file.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["mcp.db"]


async def test_a_broken_database_is_refused_in_words(target: Target, tmp_path: Path) -> None:
    whole = database(tmp_path / "whole.db", GATEWAYS, TABLE).read_bytes()
    for number, content in enumerate((b"SQLite format 3\0", whole[:100] + b"\xff" * 2000, whole[:-3000])):
        file = tmp_path / f"broken{number}.db"
        file.write_bytes(content)
        code, outcomes, said = await bring(target, "contextforge", file)
        assert code != 0 or not outcomes, said
        assert said.strip()


COSTS: dict[str, Mapping[str, object]] = {
    "endless passes": {"t": 10**9},
    "all memory": {"m": 2**40},
    "a million lanes": {"p": 10**6},
    "no passes": {"t": 0},
    "less than none": {"m": -1},
    "a text": {"t": "1"},
    "a truth": {"t": True},
    "no salt": {"salt": ""},
    "a broken salt": {"salt": "%%%"},
    "no token": {"token": ""},
    "a number as a token": {"token": 7},
}


async def test_a_bundle_that_costs_too_much_does_not_open(vault: Target, tmp_path: Path) -> None:
    name, person = await person_of(vault)
    bundle = {"version": "v2", "kdf": "argon2id", "t": 1, "m": 8, "p": 1, "salt": base64.b64encode(b"s" * 16).decode()}
    bundle |= {"token": "gAAAA" + "x" * 95}
    secret = tmp_path / "secret"
    secret.write_text("a secret of ContextForge")
    rows = [record("contextforge", name, refresh_token="v2:" + json.dumps(bundle | costs)) for costs in COSTS.values()]
    async with asyncio.timeout(60):
        code, outcomes, said = await bring(vault, "contextforge", write_file(tmp_path, rows), "--secret-file", secret)
    assert code == 1, said
    assert "imported" not in dict(zip(COSTS, outcomes, strict=True)).values(), outcomes
    assert await accounts(person) == []


# Our own export


def write_export(folder: Path, *accounts: Record, **changes: object) -> tuple[Path, Path]:
    """Write a file as another vault seals it, and its key file."""
    identity = pyrage.x25519.Identity.generate()
    key, file = folder / "key.txt", folder / f"{secrets.token_hex(4)}.age"
    key.write_text(f"{identity}\n")
    content = {"format": "token-vault-accounts", "version": 1, "accounts": list(accounts), **changes}
    file.write_bytes(pyrage.encrypt(json.dumps(content).encode(), [identity.to_public()]))
    return file, key


def own(name: str, **changes: object) -> Record:
    whole: Record = {"user": name, "provider": "dropbox", "account": "U1", "label": "a", "scopes": [SCOPE]}
    return whole | {"client_id": "ours", "refresh_token": f"rt-{secrets.token_hex(8)}", "metadata": {}} | changes


TAMPERED: dict[str, Record] = {
    "another app": {"client_id": "theirs"},
    "another person": {"user": "nobody"},
    "a scope it doesn't have": {"scopes": ["admin"]},
    "no scopes": {"scopes": None},
    "scopes in an object": {"scopes": {"a": 1}},
    "no token": {"refresh_token": None},
    "a token with NUL": {"refresh_token": "r\0t"},
    "an account with NUL": {"account": "U\0"},
    "an account with an escape": {"account": "\x1b[2J"},
    "an unknown provider": {"provider": "unknown"},
}
ODD: dict[str, Record] = {
    "an end in the far future": {"grant_expires_at": 10**30},
    "an end in the past": {"grant_expires_at": -(10**30)},
    "an end that is a text": {"grant_expires_at": "soon"},
    "a nickname of 10,000": {"nickname": "x" * 10_000},
    "a nickname with an escape": {"nickname": "\x1b[2J\u202e"},
    "a label with an escape": {"label": "\x1b[2J\u202e"},
    "metadata elsewhere": {"metadata": {"instance_url": "https://evil.example", "x" * 500: "y" * 10_000}},
    "metadata with NUL": {"metadata": {"a\0": "b\0"}},
    "metadata of half a pair": {"metadata": {"a": "\ud800"}},
}


async def test_a_tampered_export_brings_nothing_more_than_it_says(vault: Target, tmp_path: Path) -> None:
    name, person = await person_of(vault)
    file, key = write_export(tmp_path, *(own(name, **changes) for changes in TAMPERED.values()))
    code, outcomes, said = await bring(vault, "token-vault", file, "--key", key)
    told = dict(zip(TAMPERED, outcomes, strict=True))
    assert (code, [what for what in told if told[what] == "imported"]) == (1, []), said
    assert await accounts(person) == []


async def test_odd_facts_of_an_export_break_no_page(vault: Target, tmp_path: Path) -> None:
    name, person = await person_of(vault)
    rows = [own(name, account=f"U{number}", **changes) for number, changes in enumerate(ODD.values())]
    labeled = [row | {"label": ODD[what].get("label", what)} for what, row in zip(ODD, rows, strict=True)]
    file, key = write_export(tmp_path, *labeled)
    _, outcomes, said = await bring(vault, "token-vault", file, "--key", key)
    owned = await accounts(person)
    assert outcomes.count("imported") == len(owned) > 3, said
    for path in ("/connections", *(f"/connections/{one['id']}" for one in owned), "/account/data"):
        answer = await person.http.get(path)
        assert answer.status_code == 200, path
        assert not any(one in answer.text for one in HIDDEN.replace("\u2028", "")), path


async def test_a_file_for_another_key_opens_nothing(vault: Target, tmp_path: Path) -> None:
    name, person = await person_of(vault)
    file, key = write_export(tmp_path, own(name))
    whole = file.read_bytes()
    _, other = write_export(tmp_path / "x", own(name)) if (tmp_path / "x").mkdir() is None else (file, key)
    passphrase = pyrage.passphrase.encrypt(b"{}", "x")
    tries: list[tuple[bytes, Path]] = [
        (whole, other),
        (whole[:-1], key),
        (whole[:40], key),
        (b"", key),
        (b"x" * 99, key),
    ]
    tries += [(whole[:-20] + b"\0" * 20, key), (passphrase, key), (whole, file), (whole, tmp_path)]
    for number, (content, with_key) in enumerate(tries):
        broken = tmp_path / f"try{number}.age"
        broken.write_bytes(content)
        code, outcomes, said = await bring(vault, "token-vault", broken, "--key", with_key)
        assert (code != 0, outcomes) == (True, []), said
    for changes in ({"format": "x"}, {"version": 2}, {"version": "1"}, {"accounts": {"a": 1}}, {"accounts": None}):
        odd, odd_key = write_export(tmp_path, own(name), **changes)
        code, outcomes, said = await bring(vault, "token-vault", odd, "--key", odd_key)
        assert code != 0 or outcomes == [], said
    assert await accounts(person) == []
    file, key = write_export(tmp_path, own(name))  # the twin
    assert (await bring(vault, "token-vault", file, "--key", key))[1] == ["imported"]
