"""A shell completes the names of people, agents, accounts, providers, and tools, without creating or upgrading
anything."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from typer.testing import CliRunner

from server.app import open_deployment
from server.cli import app
from server.deployment import Deployment
from server.mcp.local_owner import find_owner
from server.settings import load_settings
from tests.conftest import Store
from tests.support.accounts import open_account
from tests.support.processes import PROGRAM, Place, free_port
from tests.support.seeded_grant import agent
from vault import clients, users
from vault.approvals import approvals
from vault.approvals.approvals import ToolCall
from vault.records import Principal, User
from vault.upstream import Account, TokenAnswer


async def fill(place: Place, url: str | None = None) -> str:
    """A vault with people, agents, an account, and an open approval, whose id is returned."""
    settings = load_settings(overrides={} if url is None else {"database": {"url": url}})
    async with open_deployment(settings, data=place.data) as deployment:
        owner = await find_owner(deployment)
        return await _add(deployment, owner)


async def _add(deployment: Deployment, owner: User) -> str:
    async with deployment.transaction() as transaction:
        now = deployment.now()
        alice = await users.create_user(transaction, "alice", now=now)
        await users.create_user(transaction, "bob", now=now)
        for client_id, name in (("cursor-1", "Cursor"), ("R2D2-id-of-an-agent", "Claude Code")):
            await clients.save_client(transaction, replace(agent(client_id), name=name))
        connection = await open_account(
            transaction,
            deployment,
            alice.id,
            "slack",
            TokenAnswer("at", "rt", frozenset({"chat:write"}), 3600, Account("T:U", "alice@team.example")),
        )
        asked, _ = await approvals.ask(
            transaction,
            deployment.keys,
            call=ToolCall("slack_post", lambda: {"text": "Hello"}),
            principal=Principal(owner.id, "cursor-1", "grant", scopes=frozenset(), audience=""),
            connection_id=connection.id,
            provider="slack",
            account="T:U",
            label="alice@team.example",
            scopes=frozenset({"chat:write"}),
            now=now,
        )
    return asked.id


def _question(place: Place, words: Sequence[str]) -> dict[str, str]:
    asks = {"_TOKEN_VAULT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(("token-vault", *words))}
    return asks | {"COMP_CWORD": str(len(words)), "TOKEN_VAULT_DATA": str(place.data)}


async def complete_here(place: Place, *words: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """What bash would offer for the last word, computed in this process."""
    asks = _question(place, words) | dict(environment or {})
    result = await asyncio.to_thread(
        CliRunner().invoke, app, [], env=asks, prog_name="token-vault", catch_exceptions=False
    )
    assert result.stderr == ""
    return result.stdout.split()


async def complete(place: Place, *words: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """What bash would offer for the last word."""
    asks = _question(place, words) | dict(environment or {})
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=place.environment() | asks,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert err == b"", err.decode()
    return out.decode().split("\n")[:-1] if out.endswith(b"\n") else out.decode().split("\n")


async def test_names_are_completed_from_the_database_and_nothing_is_made(place: Place) -> None:
    asked = await fill(place)
    before = {file.name: file.read_bytes() for file in place.data.iterdir() if file.is_file()}
    for words, expected in (
        (("users", "disable", "al"), ["alice"]),
        (("connections", "list", "--user", "b"), ["bob"]),
        (("clients", "show", "Cu"), ["Cursor"]),
        (("clients", "remove", ""), ["Cursor", "R2D2-id-of-an-agent"]),  # a name with two words is replaced by the ID
        (("clients", "remove", "R2"), ["R2D2-id-of-an-agent"]),
        (("explain", "--user", "Alice", "--connection", "ali"), ["alice@team.example"]),
        (("explain", "--user", "bob", "--connection", ""), []),
        (("approvals", "refuse", asked[:4]), [asked]),
        (("providers", "setup", "githu"), ["github", "github-app", "github-oauth-app"]),
        (("connections", "connect", "sla"), ["slack", "slack-bot"]),
        (("delegations", "ask", "Cursor", "slack", "--tool", "slack_po"), ["slack_post"]),
        (("tools", "list", "--profile", "every"), ["everyday", "everything"]),
        (("users", "disable", "zz"), []),
    ):
        assert sorted(await complete_here(place, *words)) == expected, words
    assert await complete(place, "users", "disable", "al") == ["alice"]
    assert {file.name: file.read_bytes() for file in place.data.iterdir() if file.is_file()} == before


async def test_names_are_completed_while_the_vault_is_served(place: Place) -> None:
    place.configure()
    await fill(place)
    async with place.serve():
        assert await complete(place, "users", "disable", "al") == ["alice"]


async def test_the_data_directory_of_the_command_line_counts(place: Place, tmp_path: Path) -> None:
    await fill(place)
    elsewhere = {"TOKEN_VAULT_DATA": str(tmp_path / "nothing")}
    assert await complete(place, "users", "disable", "al", environment=elsewhere) in ([], [""])
    given = ("users", "disable", "--data", str(place.data), "al")
    assert await complete(place, *given, environment=elsewhere) == ["alice"]


async def test_whatever_is_wrong_a_completion_says_nothing_and_makes_nothing(place: Place) -> None:
    new = Place(place.data.with_name("new"), 0)
    assert await complete_here(new, "users", "disable", "al") == []
    assert not new.data.exists()
    (place.data / "config.toml").write_text("[server]\nprot = 1\n")
    assert await complete_here(place, "users", "disable", "al") == []
    (place.data / "config.toml").unlink()
    with closing(sqlite3.connect(place.data / "vault.sqlite")) as database:
        database.execute("drop table users")
        database.commit()
    assert await complete_here(place, "users", "disable", "al") == []
    closed = {"TOKEN_VAULT_DATABASE__URL": f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"}
    assert await complete(place, "users", "disable", "al", environment=closed) in ([], [""])


async def test_names_are_completed_from_postgresql(postgres_store: Store) -> None:
    place = Place(postgres_store.data, free_port())
    asked = await fill(place, postgres_store.url)
    here = {"TOKEN_VAULT_DATABASE__URL": postgres_store.url}
    for words, expected in (
        (("users", "disable", "al"), "alice"),
        (("clients", "show", "Cu"), "Cursor"),
        (("connections", "disconnect", "--user", "alice", "ali"), "alice@team.example"),
        (("approvals", "approve", asked[:4]), asked),
    ):
        assert await complete_here(place, *words, environment=here) == [expected]
    assert await complete(place, "users", "disable", "al", environment=here) == ["alice"]
