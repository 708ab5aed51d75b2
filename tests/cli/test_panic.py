"""`panic` on the command line: a dry run, what it ends, and an exit code for what is outstanding."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import sys
from dataclasses import replace

import pytest

from providers.simulator.local_server import Simulator, running_simulator
from server.app import open_deployment
from server.commands.panic.panic import exit_code, in_words
from server.settings import load_settings
from tests.support.commands import content, run
from tests.support.processes import Place
from tests.support.seeded_grant import agent
from vault import clients, connections, delegations, users
from vault.records import Client
from vault.upkeep.panics import EndedCounts
from vault.upstream import Account, TokenAnswer

AUTH = "https://www.googleapis.com/auth/"
SCOPES = frozenset({"openid", f"{AUTH}userinfo.email", f"{AUTH}calendar.events"})


async def connect(place: Place, simulator: Simulator, *names: str, allowed: Client | None = None) -> None:
    """For each name, add a person with a Google account at the simulator, which an agent may use."""
    place.configure({"providers": simulator.settings()})
    simulator.control("rules", face="google", revoke="family")
    seeded = simulator.control("seed", face="google", count=len(names), scopes=sorted(SCOPES))["grants"]
    assert isinstance(seeded, list)
    overrides = {"providers": simulator.settings(), "sandbox": {"loopback_upstreams": True}}
    async with open_deployment(load_settings(overrides=overrides), data=place.data, creates=True) as deployment:
        for name, grant in zip(names, seeded, strict=True):
            async with deployment.transaction() as transaction:
                user = await users.create_user(transaction, name, now=deployment.now())
                connection = await connections.open_connection(
                    transaction,
                    deployment.keys,
                    user_id=user.id,
                    provider="google",
                    answer=TokenAnswer(
                        str(grant["access_token"]),
                        str(grant["refresh_token"]),
                        SCOPES,
                        3600,
                        Account(f"account-{name}", f"{name}@example.com"),
                    ),
                    asked=SCOPES,
                    policy=deployment.vault.policies["google"],
                    now=deployment.now(),
                )
                if allowed is not None:
                    await clients.save_client(transaction, replace(allowed, created_at=deployment.now()))
                    await delegations.allow(
                        transaction,
                        user_id=user.id,
                        client_id=allowed.id,
                        connection_id=connection.id,
                        scopes=SCOPES,
                        now=deployment.now(),
                        expires_at=None,
                    )


async def test_a_dry_run_shows_what_would_end_and_yes_ends_it(place: Place) -> None:
    async with running_simulator() as simulator:
        await connect(place, simulator, "alice", "bob")
        planned = await content(place, "panic", "--user", "alice")
        assert planned == {"dry_run": True, "accounts": {"google": 1}, "total": 1}
        for whose, says in (
            (
                ("--user", "alice"),
                "end the person's sessions and agents' access, and disconnect 1 account (1 at google)",
            ),
            (("--all",), "end all sessions and agents' access, and disconnect 2 accounts (2 at google)"),
            (("--provider", "google"), "disconnect 2 accounts (2 at google)"),
        ):
            said = (await run(place, "panic", *whose)).stdout
            assert said == f"Dry run: this would {says}. Add --yes to do it.\n"
        assert len(await content(place, "connections", "list", "--user", "alice")) == 1  # pyright: ignore[reportArgumentType]
        done = await run(place, "panic", "--user", "alice", "--yes", "--wait", "60")
        assert (done.exit_code, "1 verified dead" in done.stdout) == (0, True), done.output
        assert await content(place, "connections", "list", "--user", "alice") == []
        assert len(await content(place, "connections", "list", "--user", "bob")) == 1  # pyright: ignore[reportArgumentType]
        ended = [one["family"] for one in simulator.books()["revocations"] if one["outcome"] == "revoked"]
        assert len(ended) == 1


async def test_a_liar_gives_the_gravest_exit_code_until_it_is_honest(place: Place) -> None:
    async with running_simulator() as simulator:
        await connect(place, simulator, "alice")
        simulator.control("rules", face="google", revoke="lies")
        lied = await run(place, "panic", "--provider", "google", "--yes", "--wait", "0")
        assert (lied.exit_code, "1 still alive" in lied.stdout) == (5, True), lied.output
        (one,) = await content(place, "receipts", "list")  # pyright: ignore[reportGeneralTypeIssues]
        assert (one["result"], one["pages"]) == ("still_alive", ["https://myaccount.google.com/connections"])
        simulator.control("rules", face="google", revoke="family")
        assert (await run(place, "receipts", "retry", one["id"])).exit_code == 0
        again = await run(place, "panic", "--provider", "google", "--yes", "--wait", "60")
        assert (again.exit_code, "1 verified dead" in again.stdout) == (0, True), again.output
        assert await content(place, "receipts", "list") == []
        shown = await run(place, "receipts", "show", one["id"])
        receipt = place.data.parent / "receipt.jwt"
        receipt.write_text(shown.stdout)
        verified = await content(place, "receipts", "verify", str(receipt))
        assert (verified["result"], verified["valid"]) == ("verified_dead", True)  # pyright: ignore[reportIndexIssue]


async def test_a_removed_agent_leaves_receipts_that_nothing_ended_at_the_provider(place: Place) -> None:
    async with running_simulator() as simulator:
        await connect(place, simulator, "alice", allowed=agent("helper"))
        removed = await content(place, "clients", "remove", "helper")
        (one,) = await content(place, "receipts", "agents", "helper")  # pyright: ignore[reportGeneralTypeIssues]
        assert removed["receipts"] == [one["id"]]  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType]
        assert (one["result"], one["reason"], one["token_expires_at"]) == ("nothing_to_revoke", "shared_grant", None)
        receipt = place.data.parent / "receipt.jwt"
        receipt.write_text((await run(place, "receipts", "show", one["id"])).stdout)
        verified = await content(place, "receipts", "verify", str(receipt))
        assert (verified["client"], verified["valid"]) == ("helper", True)  # pyright: ignore[reportIndexIssue]
        assert simulator.books()["revocations"] == []


async def test_an_agents_panic_can_be_run_again_after_the_agent_is_gone(place: Place) -> None:
    async with running_simulator() as simulator:
        await connect(place, simulator, "alice", allowed=agent("helper"))
        for _ in range(2):
            done = await run(place, "panic", "--client", "helper", "--yes", "--wait", "60")
            assert (done.exit_code, "1 verified dead" in done.stdout) == (0, True), done.output
        unknown = await run(place, "panic", "--client", "other", "--yes")
        assert (unknown.exit_code, "no agent" in unknown.output) == (1, True)


# Ends the process after the first account is disconnected.
KILLED = """
import os, runpy, signal, sys
from vault.upkeep import panics
disconnect = panics._disconnect

async def die_after(*arguments):
    await disconnect(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

panics._disconnect = die_after
runpy.run_module("token_vault", run_name="__main__")
"""


async def _requests(place: Place) -> list[bool]:
    """Whether each request is finished."""
    async with open_deployment(load_settings(None, data=place.data), data=place.data) as deployment:
        rows = await deployment.database.fetch("select done_at from panics order by requested_at")
        return [row["done_at"] is not None for row in rows]


@pytest.mark.parametrize("connects_more", [False, True])
async def test_a_killed_panic_is_continued_and_what_began_since_ends_too(place: Place, *, connects_more: bool) -> None:
    async with running_simulator() as simulator:
        await connect(place, simulator, "alice", "bob")
        command = [sys.executable, "-c", KILLED, "panic", "--all", "--yes", "--data", str(place.data)]
        killed = await asyncio.create_subprocess_exec(*command, env=place.environment())
        assert await killed.wait() == -signal.SIGKILL
        assert await _requests(place) == [False]
        if connects_more:
            await asyncio.to_thread(_age_requests, place)
            await connect(place, simulator, "carol")
        again = await run(place, "panic", "--all", "--yes", "--wait", "60", "--json")
        assert again.exit_code == 0, again.output
        found = json.loads(again.stdout)
        assert (found["continued"], found["verified_dead"]) == (True, 3 if connects_more else 2)
        assert "Continuing the request from " in again.stderr
        assert ("Also ending what began after" in again.stderr) == connects_more
        assert await _requests(place) == [True] * (2 if connects_more else 1)
        assert await content(place, "panic", "--all") == {"dry_run": True, "accounts": {}, "total": 0}
        third = await run(place, "panic", "--all", "--yes", "--json")
        assert (json.loads(third.stdout)["continued"], "Continuing" in third.stderr) == (False, False)


def _age_requests(place: Place) -> None:
    """The person connects a minute later; instants are in seconds."""
    with sqlite3.connect(place.data / "vault.sqlite") as database:
        database.execute("update panics set requested_at = requested_at - 60")
    database.close()


@pytest.mark.parametrize("options", [(), ("--all", "--user", "alice"), ("--user", "nobody"), ("--provider", "nothing")])
async def test_panic_needs_one_subject_that_exists(place: Place, options: tuple[str, ...]) -> None:
    await content(place, "users", "add", "alice", "--admin", "--password-stdin", feed="a long enough password here\n")
    assert (await run(place, "panic", *options, "--yes")).exit_code == 1
    assert (await run(place, "panic", "--user", "alice", "--yes")).exit_code == 0


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        (EndedCounts(), 0, "none"),
        (EndedCounts(verified_dead=2, unverified=1), 0, "2 verified dead, 1 confirmed by the provider"),
        (EndedCounts(verified_dead=2, waiting=1), 3, "1 waiting"),
        (EndedCounts(retried=1), 3, "1 unreachable"),
        (EndedCounts(retried=1, by_hand=1), 4, "1 to end on the provider's page"),
        (EndedCounts(settled=1), 0, "1 ended by hand"),
        (EndedCounts(verified_dead=1, held=1), 4, "1 not revoked, because"),
        (EndedCounts(retried=1, by_hand=1, still_alive=1), 5, "1 still alive"),
    ],
)
def test_the_exit_code_says_the_gravest_of_what_is_outstanding(found: EndedCounts, code: int, words: str) -> None:
    assert exit_code(found) == code
    assert words in in_words(found)
    assert ("receipts list" in in_words(found)) == (code != 0)
