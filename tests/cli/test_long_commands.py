"""Long commands show progress on a terminal, and end with counts and the first names; --json has everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.app import open_deployment
from server.commands.restore import FIRST
from server.settings import load_settings
from tests.support.accounts import open_account
from tests.support.commands import run, run_on_terminal
from tests.support.processes import Place, free_port
from vault import users
from vault.upstream import Account, TokenAnswer

MANY = FIRST + 3


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    """A vault with more accounts than are listed without --verbose; their refresh tokens work only once."""
    made = Place(tmp_path / "data", free_port())
    async with (
        open_deployment(load_settings(), data=made.data) as deployment,
        deployment.transaction() as transaction,
    ):
        now = deployment.now()
        owner = await users.create_user(transaction, "alice", now=now)
        for number in range(MANY):
            await open_account(
                transaction,
                deployment,
                owner.id,
                "atlassian",
                TokenAnswer("at", "rt", frozenset({"a"}), 3600, Account(f"{number:02}", f"account-{number:02}")),
            )
    made.configure()
    return made


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


@pytest.mark.long
async def test_long_commands_say_how_far_they_are_on_a_terminal_only(place: Place) -> None:
    file = str(place.data.parent / "vault.backup")
    for command, words in (
        (("backup", file), "Writing rows"),
        (("activity", "verify"), "Verifying events"),
        (("restore", file, "--force"), "Checking connections"),
        (("providers", "test", "slack"), "Testing slack"),
    ):
        code, seen = await run_on_terminal(place, *command)
        assert (code, words in seen) == (0, True), seen
    _, out, err = await place.run("activity", "verify")
    assert "intact" in out
    assert "Verifying" not in out + err
    assert "\x1b" not in out + err
