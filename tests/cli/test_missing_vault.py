"""A mistyped --data never creates a vault: only `serve`, `stdio`, `demo`, and `init` do, and `restore` from a
backup."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.cli import app
from tests.conftest import PostgresCluster, Store
from tests.support.processes import Place, free_port

OPENING = (
    "users list",
    "users add alice --password-stdin",
    "users disable alice",
    "users remove alice",
    "users link alice --issuer https://id.example --subject 1",
    "clients list",
    "clients show x",
    "clients remove x",
    "clients add Web --redirect-uri http://127.0.0.1/",
    "clients release x slack proxy",
    "apis list",
    "apis show https://a.example/",
    "apis add https://a.example/",
    "apis remove https://a.example/",
    "connections list",
    "connections connect slack",
    "connections disconnect x",
    "delegations list",
    "delegations ask x y",
    "delegations revoke x y",
    "activity",
    "activity verify",
    "keys rotate-signing",
    "sign-in",
    "explain --client x --connection y",
    "backup {tmp}/made.backup",
    "quarantine",
    "quarantine --dry-run",
)


async def run(data: Path, *command: str, feed: str | None = None) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, [*command, "--data", str(data)], input=feed)


@pytest.mark.parametrize("command", OPENING)
async def test_a_command_on_a_mistyped_data_directory_makes_nothing(tmp_path: Path, command: str) -> None:
    (tmp_path / "token-vault").mkdir()
    (tmp_path / "token-vault" / "vault.sqlite").touch()
    data = tmp_path / "token-valut"
    refused = await run(data, *command.format(tmp=tmp_path).split(), feed="a long enough password\n")
    assert refused.exit_code == 1, refused.output
    assert f"no vault in {data}" in refused.stderr
    assert "Did you mean token-vault?" in refused.stderr
    assert f"token-vault init --data {data}" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not data.exists()


async def test_doctor_says_that_no_vault_is_there_and_makes_none(tmp_path: Path) -> None:
    result = await run(tmp_path / "new", "doctor", "--json")
    assert result.exit_code == 0
    found = {one["check"]: one for one in json.loads(result.stdout)}
    assert "no vault here" in found["database"]["sentence"]
    assert "--data" in found["database"]["fix"]
    assert {"port", "public_url", "providers"} <= set(found)
    assert "history" not in found
    assert not (tmp_path / "new").exists()


async def test_doctor_checks_the_providers_of_an_installation_that_never_ran(tmp_path: Path) -> None:
    place = Place(tmp_path / "new", free_port())
    place.data.mkdir(mode=0o700)
    place.configure({"providers": {"slack": {"client_id": "1.2"}}})
    (place.data / "providers").mkdir()
    (place.data / "providers" / "broken.toml").write_text('name = "broken"\n')
    kept = sorted(one.name for one in place.data.iterdir())
    broken = await run(place.data, "doctor")
    assert broken.exit_code == 1
    assert "broken.toml" in broken.stdout
    (place.data / "providers" / "broken.toml").unlink()
    assert "slack.client" in (await run(place.data, "doctor")).stdout
    assert sorted(one.name for one in place.data.iterdir()) == kept


async def test_init_makes_a_vault_that_other_commands_find_and_keeps_one_that_is_there(tmp_path: Path) -> None:
    data = tmp_path / "new"
    made = json.loads((await run(data, "init", "--json")).stdout)
    assert (made["data"], made["settings_file"]) == (str(data), str(data / "config.toml"))
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    added = await run(data, "users", "add", "alice", "--password-stdin", feed="a long enough password\n")
    assert added.exit_code == 0, added.output
    assert json.loads((await run(data, "init", "--json")).stdout) == made
    assert "alice" in (await run(data, "users", "list")).stdout


async def test_a_set_up_before_the_first_start_says_that_no_vault_is_there(tmp_path: Path) -> None:
    place = Place(tmp_path / "new", free_port())
    set_up = ("providers", "setup", "github", "--client-id", "Iv1.0123456789abcdef", "--client-secret-stdin")
    first = await run(place.data, *set_up, feed="secret\n")
    assert first.exit_code == 0, first.output
    assert "There is no vault in" in first.stderr
    assert not (place.data / "vault.sqlite").exists()
    assert (await run(place.data, "init")).exit_code == 0
    assert "There is no vault in" not in (await run(place.data, *set_up, feed="secret\n")).stderr


async def test_on_postgresql_a_directory_without_the_key_and_a_database_without_a_vault_are_refused(
    postgres_store: Store, postgres: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_VAULT_DATABASE__URL", postgres_store.url)
    assert (await run(postgres_store.data, "users", "list")).exit_code == 0
    elsewhere = await run(postgres_store.data.with_name("dtaa"), "users", "list")
    assert elsewhere.exit_code == 1
    assert "master.key isn't there" in elsewhere.stderr
    assert not postgres_store.data.with_name("dtaa").exists()
    name = await postgres.create()
    monkeypatch.setenv("TOKEN_VAULT_DATABASE__URL", postgres.url(name))
    empty = await run(postgres_store.data, "users", "list")
    assert empty.exit_code == 1
    assert "no vault in this database" in empty.stderr
    assert (await run(postgres_store.data, "init")).exit_code == 0
    assert (await run(postgres_store.data, "users", "list")).exit_code == 0
    await postgres.drop(name)
