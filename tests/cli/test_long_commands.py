"""Long commands say on a terminal how far they are, and end with counts and the first names; --json has everything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.app import open_deployment
from server.cli import app
from server.commands.restore import FIRST
from server.settings import load_settings
from tests.support.processes import Place, free_port
from vault import connections, users
from vault.upstream import Account, TokenAnswer

MANY = FIRST + 3


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    """A vault with more accounts than are named without --verbose; their refresh tokens work once."""
    made = Place(tmp_path / "data", free_port())
    async with (
        open_deployment(load_settings(), data=made.data) as deployment,
        deployment.transaction() as transaction,
    ):
        now = deployment.now()
        owner = await users.create_user(transaction, "alice", now=now)
        for number in range(MANY):
            await connections.open_connection(
                transaction,
                deployment.keys,
                user_id=owner.id,
                provider="atlassian",
                answer=TokenAnswer("at", "rt", frozenset({"a"}), 3600, Account(f"{number:02}", f"account-{number:02}")),
                asked=frozenset({"a"}),
                policy=deployment.vault.policies["atlassian"],
                now=now,
            )
    made.configure()
    return made


async def run(place: Place, *command: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, [*command, "--data", str(place.data)])


async def test_a_restore_counts_and_names_the_first_accounts(place: Place) -> None:
    file = str(place.data.parent / "vault.backup")
    assert (await run(place, "backup", file)).exit_code == 0
    short = await run(place, "restore", file, "--force")
    assert short.exit_code == 0, short.output
    assert f"Restored into {place.data}: {MANY} connections: {MANY} must be reconnected" in short.stderr
    assert f"The first {FIRST} of {MANY} accounts; use --verbose or --json for all" in short.stderr
    assert short.stdout.count("account-") == FIRST
    whole = await run(place, "restore", file, "--force", "--verbose")
    assert whole.stdout.count("account-") == MANY
    assert "The first" not in whole.stderr
    listed = await run(place, "restore", file, "--force", "--json")
    assert len(json.loads(listed.stdout)) == MANY


async def test_a_dry_quarantine_counts_and_names_the_first_accounts(place: Place) -> None:
    assert (await run(place, "quarantine", "--dry-run")).stdout.count("account-") == FIRST
    assert (await run(place, "quarantine", "--dry-run", "--verbose")).stdout.count("account-") == MANY


async def _on_a_terminal(place: Place, *command: str) -> str:
    """What a person sees on standard error."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *place.arguments(*command),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=theirs,
        env=place.environment() | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)

    def read() -> bytes:
        seen = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(ours, 65536):
                seen += part
        return seen

    async with asyncio.timeout(60):
        seen = await asyncio.to_thread(read)
        assert await process.wait() == 0, seen
    os.close(ours)
    return seen.decode()


async def test_long_commands_say_how_far_they_are_on_a_terminal_only(place: Place) -> None:
    file = str(place.data.parent / "vault.backup")
    for command, words in (
        (("backup", file), "Writing rows"),
        (("activity", "verify"), "Verifying events"),
        (("restore", file, "--force"), "Loading rows"),
        (("providers", "test", "slack"), "Testing slack"),
    ):
        seen = await _on_a_terminal(place, *command)
        assert words in seen, command
    _, out, err = await place.run("activity", "verify")
    assert "intact" in out
    assert "Verifying" not in out + err
    assert "\x1b" not in out + err
