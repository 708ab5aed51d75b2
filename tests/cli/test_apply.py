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
    assert applied.stderr == "1 made.\nLinks and secrets are shown only once.\n"
    file.write_text("[people.grace]\nadmin = false\n")
    changed = await run(place, "apply", str(file))
    assert changed.stdout.splitlines() == ["~ person grace", "    admin: true -> false"]
    assert changed.stderr == "1 made.\n"
    again = await run(place, "apply", str(file), "--plan")
    assert (again.exit_code, again.stdout, again.stderr) == (0, "", "Nothing to change.\n")


async def test_a_plan_shows_names_as_they_are_written_and_no_defaults(place: Place, file: Path) -> None:
    file.write_text('[agents.office]\ntitle = "Büro"\nredirect_uris = ["https://office.example/callback"]\n')
    planned = await run(place, "apply", str(file), "--plan")
    assert planned.stdout.splitlines() == [
        "+ agent office",
        '    title: "Büro"',
        '    auth_method: "none"',
        '    redirect_uris: ["https://office.example/callback"]',
        '    grant_types: ["authorization_code", "refresh_token"]',
    ]


async def test_a_wrong_file_ends_in_one_line(place: Place, file: Path) -> None:
    file.write_text("[people.grace]\namdin = true\n")
    refused = await run(place, "apply", str(file))
    assert refused.exit_code == 1
    assert refused.stderr == "token-vault: people.grace.amdin: there is no such key. Did you mean admin?\n"
    missing = await run(place, "apply", str(file) + ".not-there")
    assert missing.exit_code == 1
    assert "can't read" in missing.stderr


async def test_a_refusal_names_the_agent(place: Place, file: Path) -> None:
    fine = 'redirect_uris = ["https://a.example/"]\n'
    file.write_text(f"[agents.one]\n{fine}[agents.two]\nredirect_uris = []\n")
    refused = await run(place, "apply", str(file), "--plan")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("token-vault: agents.two: ")
    file.write_text(f"[agents.one]\n{fine}[agents.two]\n{fine}")
    assert (await run(place, "apply", str(file), "--plan")).exit_code == 2  # the twin


@pytest.mark.parametrize("as_json", [True, False])
async def test_a_refused_change_leaves_the_secrets_of_those_before_it(
    place: Place, file: Path, *, as_json: bool
) -> None:
    """Nothing can show them again."""
    options = ["--json"] if as_json else []
    file.write_text(f"[people.heidi]\n[people.{'x' * 300}]\n")
    stopped = await run(place, "apply", str(file), *options)
    assert stopped.exit_code == 1
    assert "were made and stay" in stopped.stderr
    assert "name" in stopped.stderr.splitlines()[-1]
    if as_json:
        told = json.loads(stopped.stdout)
        assert told["applied"] is False
        (change,) = told["changes"]
        assert (change["change"], change["name"]) == ("create", "heidi")
        assert "/sign-in/link?ticket=" in change["secret"]
    else:
        first, link = stopped.stdout.splitlines()
        assert first == "+ person heidi"
        assert "/sign-in/link?ticket=" in link
    again = await run(place, "apply", str(file), *options)  # the twin: the first change is refused
    assert (again.exit_code, again.stdout) == (1, "")
    assert "were made and stay" not in again.stderr


async def test_what_is_named_twice_or_by_its_id_is_applied_once(place: Place, file: Path) -> None:
    file.write_text(
        """
        [people.Grace]
        identities = [{ issuer = "https://i.example", subject = "1" }, { issuer = "https://i.example", subject = "1" }]

        [groups.support]
        members = ["Grace", "GRACE"]

        [agents.reporting]
        id = "reports"
        confidential = true
        redirect_uris = ["https://r.example/", "https://r.example/"]
        resources = ["https://api.example/v1", "https://api.example/v1"]

        [apis."https://api.example/v1"]
        scopes = ["write", "read", "read"]
        clients = ["reporting", "reports"]
        """
    )
    applied = await run(place, "apply", str(file))
    assert applied.exit_code == 0, applied.stderr
    again = await run(place, "apply", str(file), "--plan")
    assert (again.exit_code, again.stdout) == (0, ""), again.stdout
