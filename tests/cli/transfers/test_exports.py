"""`token-vault export`: accounts are encrypted to the operator's key, recorded, and importable by another vault."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pyrage
import pytest

from server.administration import account_export, group_accounts, groups
from server.administration.actor import Actor
from server.sign_in.identities import identity_name
from tests.cli.transfers.configured_vault import ConfiguredVault, token_of
from tests.support.accounts import open_account
from tests.support.rooms.company_room import IDENTITY, running_company
from tests.support.rooms.mcp_room import SLACK
from vault import connections
from vault.records import User
from vault.upstream import Account, TokenAnswer


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, str]:
    """A key file as age-keygen writes it, and its recipient."""
    identity = pyrage.x25519.Identity.generate()
    file = tmp_path / "key.txt"
    file.write_text(f"# created: today\n# public key: {identity.to_public()}\n{identity}\n")
    return file, str(identity.to_public())


async def with_account(place: ConfiguredVault, provider: str = "slack") -> tuple[User, TokenAnswer]:
    """A user with a connected account, and its tokens."""
    person, answer = await place.user(), await place.former(provider)
    async with place.deployment.transaction() as transaction:
        opened = await open_account(transaction, place.deployment, person.id, provider, answer)
        await connections.rename(transaction, opened, nickname="Work")
    return person, answer


def decrypt_export(file: Path, key: Path) -> dict[str, object]:
    identity = pyrage.x25519.Identity.from_str(key.read_text().splitlines()[-1])
    return json.loads(pyrage.decrypt(file.read_bytes(), [identity]))


async def test_an_export_is_sealed_recorded_and_another_vault_takes_it_in(
    place: ConfiguredVault, tmp_path: Path, key: tuple[Path, str]
) -> None:
    person, answer = await with_account(place)
    secret, recipient = key
    file, again, data = tmp_path / "out.age", tmp_path / "again.age", tmp_path / "other" / "data"
    wanted = ("export", file, "--to", recipient, "--person", person.name)
    unconfirmed = await place.run_command(*wanted)
    assert unconfirmed.exit_code == 1
    assert not file.exists()
    done = await place.run_command(*wanted, "--yes")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"file": str(file), "accounts": 1, "left_out": 0}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token_of(answer).encode() not in file.read_bytes()
    document = decrypt_export(file, secret)
    (account,) = document["accounts"]  # pyright: ignore[reportGeneralTypeIssues] -- JSON
    assert (account["user"], account["refresh_token"]) == (person.name, token_of(answer))
    (event,) = [one for one in await place.room.events("connection.exported") if one.user_id == person.id]
    assert event.details["recipients"] == [recipient]

    data.mkdir(parents=True, mode=0o700)
    (data / "config.toml").write_text(place.settings)
    await place.run_command("init", data=data)
    taken = ("import", "token-vault", file, "--key", secret, "--create-people", "--apply")
    for outcome in ("imported", "already connected"):
        imported = await place.run_command(*taken, data=data)
        assert json.loads(imported.stdout)[0]["outcome"] == outcome, imported.output
    back = await place.run_command("export", again, "--to", recipient, "--yes", data=data)
    assert back.exit_code == 0, back.output
    (returned,) = decrypt_export(again, secret)["accounts"]  # pyright: ignore[reportGeneralTypeIssues] -- JSON
    assert {**returned, "connected_at": None} == {**account, "connected_at": None}


async def test_an_export_can_be_of_one_provider_and_never_replaces_a_file(
    place: ConfiguredVault, tmp_path: Path, key: tuple[Path, str]
) -> None:
    person, _ = await with_account(place)
    secret, recipient = key
    file = tmp_path / "out.age"
    wanted = ("export", file, "--to", recipient, "--person", person.name, "--yes", "--provider")
    none = await place.run_command(*wanted, "google")
    assert "there is no account to export" in none.output
    bad = await place.run_command("export", file, "--to", "age1nothing", "--yes")
    assert "isn't an age recipient" in bad.output
    assert not file.exists()
    assert (await place.run_command(*wanted, "slack")).exit_code == 0
    before = file.read_bytes()
    again = await place.run_command(*wanted, "slack")
    assert "exists: name another file" in again.output
    assert file.read_bytes() == before

    other = tmp_path / "other.txt"
    other.write_text(str(pyrage.x25519.Identity.generate()))
    shut = await place.run_command("import", "token-vault", file, "--key", other)
    assert "it isn't a file that the key" in shut.output
    assert (await place.run_command("import", "token-vault", file, "--key", secret)).exit_code == 0


async def test_an_account_that_must_be_reconnected_or_cannot_be_opened_is_named_and_left_out(
    place: ConfiguredVault, tmp_path: Path, key: tuple[Path, str]
) -> None:
    person, _ = await with_account(place)
    state = "update connections set state = :state where user_id = :user"
    wanted = ("--to", key[1], "--person", person.name, "--yes")
    for name, number, value in (("dead", 1, "needs_reauth"), ("alive", 0, "active")):
        async with place.deployment.transaction() as transaction:
            await transaction.execute(state, {"state": value, "user": person.id})
        done = await place.run_command("export", tmp_path / name, *wanted)
        assert done.exit_code == number, done.output
        assert ("reconnect it first" in done.output) is bool(number)
    (account,) = await place.list_connections(person)
    async with place.deployment.transaction() as transaction:
        await place.deployment.keys.destroy_connection_key(transaction, account.id)
    shut = await place.run_command("export", tmp_path / "shut", *wanted)
    assert (shut.exit_code, "its tokens can't be opened" in shut.output) == (1, True), shut.output


async def test_an_account_of_a_group_is_named_and_left_out(
    place: ConfiguredVault, tmp_path: Path, key: tuple[Path, str]
) -> None:
    person, _ = await with_account(place)
    (own,) = await place.list_connections(person)
    operator = Actor(place.deployment, None, "command_line")
    group = await groups.create(operator, "Accounting")
    wanted = ("--to", key[1], "--yes")
    assert "Accounting" not in (await place.run_command("export", tmp_path / "before", *wanted)).output  # the twin
    given = await group_accounts.give(operator, person, own.id, group, reads_only=False, asks_writes=False)
    await with_account(place)
    done = await place.run_command("export", tmp_path / "all", *wanted)
    assert f"left out: Accounting, slack {given.label}: it belongs to a group" in done.output.replace("\n", " ")
    assert done.exit_code == 1
    assert (
        "Accounting"
        not in (await place.run_command("export", tmp_path / "google", *wanted, "--provider", "google")).output
    )
    other, _ = await with_account(place)
    assert (await place.run_command("export", tmp_path / "own", *wanted, "--person", other.name)).exit_code == 0


async def test_a_token_that_ends_and_that_nothing_renews_is_left_out(
    place: ConfiguredVault, tmp_path: Path, key: tuple[Path, str]
) -> None:
    person, _ = await with_account(place)
    (own,) = await place.list_connections(person)
    assert own.access_expires_at is not None
    change = "update connections set refresh_sealed = null, access_expires_at = :at where id = :id"
    wanted = ("--to", key[1], "--person", person.name, "--yes")
    for name, at, number in (("ending", place.deployment.now() + 3600, 1), ("lasting", None, 0)):
        async with place.deployment.transaction() as transaction:
            await transaction.execute(change, {"id": own.id, "at": at})
        done = await place.run_command("export", tmp_path / name, *wanted)
        assert done.exit_code == number, done.output
        assert ("nothing renews its access token" in done.output.replace("\n", " ")) is bool(number)


async def test_what_a_company_connects_is_left_out_and_its_sign_ins_are_no_accounts(tmp_path: Path) -> None:
    """An ID token isn't an account's token, and nobody needs to be told about it."""
    async with running_company(tmp_path / "data", services=["linear"]) as company:
        user, _ = await company.sign_in("alice")
        accounts = await company.accounts(user)
        assert set(accounts) == {IDENTITY, "linear"}
        deployment = company.room.deployment
        async with deployment.transaction() as transaction:
            answer = TokenAnswer("lasting", None, frozenset({"default"}), None, Account("own", "own"))
            await open_account(transaction, deployment, user.id, "asana", answer)
        found = await account_export.collect(Actor(deployment, None, "command_line"))
        async with deployment.transaction() as transaction:  # as if the settings had neither anymore
            for known, name in ((IDENTITY, identity_name("removed")), ("asana", "removed")):
                renamed = {"known": known, "name": name}
                await transaction.execute("update connections set provider = :name where provider = :known", renamed)
        later = await account_export.collect(Actor(deployment, None, "command_line"))
    told = {one.connection.provider: one.obstacle for one in found}
    assert told == {"linear": account_export.VOUCHED, "asana": ""}
    assert {one.connection.provider: one.obstacle for one in later} == {
        "linear": account_export.VOUCHED,
        "removed": account_export.SHUT,
    }


async def test_an_end_that_no_database_holds_is_the_last_that_one_does(
    place: ConfiguredVault, tmp_path: Path, key: tuple[Path, str]
) -> None:
    secret, recipient = key
    person, file = await place.user(), tmp_path / "odd.age"
    account = {"user": person.name, "provider": "slack", "account": "U1", "scopes": sorted(SLACK), "refresh_token": "r"}
    content = {"format": "token-vault-accounts", "version": 1, "accounts": [{**account, "grant_expires_at": 10**30}]}
    file.write_bytes(pyrage.encrypt(json.dumps(content).encode(), [pyrage.x25519.Recipient.from_str(recipient)]))
    done = await place.run_command("import", "token-vault", file, "--key", secret, "--apply")
    assert json.loads(done.stdout)[0]["outcome"] == "imported", done.output
    (imported,) = await place.list_connections(person)
    assert imported.grant_expires_at == 253_402_300_799
