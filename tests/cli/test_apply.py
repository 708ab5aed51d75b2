"""`token-vault apply FILE`: its output, its exit codes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.processes import Place


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "people.toml"
    found.write_text("[people.grace]\nadmin = true\n")
    return found


async def test_a_plan_ends_with_2_while_something_would_change(place: Place, file: Path) -> None:
    planned = await run(place, "apply", str(file), "--plan")
    assert (planned.exit_code, planned.stdout.splitlines()) == (2, ["+ person grace", "    admin: true"])
    applied = await run(place, "apply", str(file), "--json")
    assert applied.exit_code == 0
    (change,) = json.loads(applied.stdout)["changes"]
    assert "/sign-in/link?ticket=" in change["secret"]
    again = await run(place, "apply", str(file), "--plan")
    assert (again.exit_code, again.stdout, again.stderr) == (0, "", "Nothing to change.\n")


async def test_a_wrong_file_ends_in_one_line(place: Place, file: Path) -> None:
    file.write_text("[people.grace]\namdin = true\n")
    refused = await run(place, "apply", str(file))
    assert refused.exit_code == 1
    assert refused.stderr == "token-vault: people.grace.amdin: there is no such key. Did you mean admin?\n"
    missing = await run(place, "apply", str(file) + ".not-there")
    assert missing.exit_code == 1
    assert "can't read" in missing.stderr
