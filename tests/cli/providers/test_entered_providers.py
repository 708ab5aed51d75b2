"""Providers that were set up in the browser are known to all commands: no command reads only the settings."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from providers.simulator.local_server import Simulator
from server.app import open_deployment, open_policies
from server.deployment import Deployment
from server.settings import load_settings
from tests.cli.test_completion import complete_here
from tests.support.commands import content, run
from tests.support.doctor_places import assert_problem, configure, examine, slack
from tests.support.processes import Place
from vault import registrations
from vault.registrations import EnteredRegistration
from vault.upstream import RotationMode

GITHUB = EnteredRegistration("Iv1.0123456789abcdef", "0123456789abcdef0123456789abcdef01234567")


@asynccontextmanager
async def open_place(place: Place) -> AsyncGenerator[Deployment]:
    async with open_deployment(load_settings(data=place.data), data=place.data) as deployment:
        yield deployment


async def enter(place: Place, provider: str, entered: EnteredRegistration) -> None:
    """Store what a provider's page stores."""
    async with open_place(place) as deployment:
        known = await registrations.get_registration(deployment.database, provider)
        async with deployment.transaction() as transaction:
            kept = await registrations.save_registration(
                transaction, deployment.keys, entered, provider=provider, by="x", now=1, known=known
            )
        assert kept is not None


async def row_of(place: Place, provider: str) -> dict[str, object]:
    rows = await content(place, "providers", "list")
    assert isinstance(rows, list)
    return next(row for row in rows if row["name"] == provider)


async def test_lists_know_what_was_entered_and_where(place: Place) -> None:
    before = await row_of(place, "github")
    assert (before["configured"], before["set_up_in"]) == (False, None)
    assert "github_issue_read" not in (await run(place, "tools", "list")).stdout
    await enter(place, "github", GITHUB)
    after = await row_of(place, "github")
    assert (after["configured"], after["set_up_in"]) == (True, "browser")
    assert "set_up_in      browser" in (await run(place, "providers", "show", "github")).stdout
    assert "github_issue_read" in (await run(place, "tools", "list")).stdout
    assert "github" in (await run(place, "tools", "sets")).stdout
    place.configure({"providers": {"github": {"client_id": "Iv1.fedcba9876543210", "client_secret": "x" * 40}}})
    assert (await row_of(place, "github"))["set_up_in"] == "settings"


async def test_an_account_there_gets_a_link(place: Place) -> None:
    refused = await run(place, "connections", "connect", "github")
    assert refused.exit_code == 1
    assert f"{place.url}/administration/providers/github" in refused.stderr
    await enter(place, "github", GITHUB)
    made = await run(place, "connections", "connect", "github")
    assert made.exit_code == 0, made.stderr


async def test_its_tools_are_completed_and_so_are_apis(place: Place) -> None:
    assert (await run(place, "apis", "add", "https://api.example")).exit_code == 0
    assert await complete_here(place, "apis", "show", "ht") == ["https://api.example"]
    words = ("delegations", "ask", "Cursor", "github", "--tool", "github_issue_cr")
    assert await complete_here(place, *words) == []
    await enter(place, "github", GITHUB)
    assert await complete_here(place, *words) == ["github_issue_create"]


async def test_what_doctor_says_to_fix_is_where_it_was_entered(place: Place, simulator: Simulator) -> None:
    configure(place, *[line for line in slack(simulator) if "client_" not in line])
    (place.data / "config.toml").chmod(0o600)
    right = simulator.slack_settings()
    client_id, secret = str(right["client_id"]), str(right["client_secret"])
    await enter(place, "slack", EnteredRegistration(client_id, "wrong"))
    page = f"{place.url}/administration/providers/slack"
    assert_problem(await examine(place, fails=True), "slack.client", "rejects", f"again at {page}")
    await enter(place, "slack", EnteredRegistration(client_id, secret))
    assert (await examine(place))["slack.client"]["verdict"] == "ok"


async def test_restore_and_quarantine_judge_by_what_was_entered(place: Place) -> None:
    """Square gives apps without a secret single-use refresh tokens."""
    for secret, rotation in (("sq0csp-secret", RotationMode.NONE), (None, RotationMode.STRICT)):
        await enter(place, "square", EnteredRegistration("sq0idp-0123456789", secret))
        read = await open_policies(load_settings(data=place.data), data=place.data)
        async with open_place(place) as deployment:
            judged = (await read(deployment.database))["square"]
            assert judged.rotation is deployment.vault.policies["square"].rotation is rotation


async def test_keys_are_listed_without_any_key(place: Place) -> None:
    (master, signing) = await _keys(place)
    assert (master["kind"], master["state"], signing["state"]) == ("master", "current", "signing")
    await content(place, "keys", "rotate-signing")
    assert [one["state"] for one in await _keys(place)] == ["current", "signing", "next"]


async def _keys(place: Place) -> list[dict[str, object]]:
    found = await content(place, "keys", "list")
    assert isinstance(found, list)
    return found
