"""`panic`: end all access of a person, an agent, a provider, or everyone, and check that it has ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from server.terminal.completion import complete_clients, complete_providers, complete_users
from server.terminal.context import Setup, fail, note

if TYPE_CHECKING:
    from server.deployment import Deployment
    from vault.records import Tell
    from vault.upkeep.panics import EndedCounts, Kind

RETRIED, BY_HAND, STILL_ALIVE = 3, 4, 5  # exit codes, higher for more serious results
_BY = "command_line"
_LOOK = 1.0  # seconds between checks for due revocations


def panic(
    setup: Setup,
    *,
    user: Annotated[
        str | None,
        typer.Option("--user", help="A person: their sessions, agents, and accounts.", autocompletion=complete_users),
    ] = None,
    client: Annotated[
        str | None,
        typer.Option(
            "--client", help="An agent, and every account that it could use.", autocompletion=complete_clients
        ),
    ] = None,
    provider: Annotated[
        str | None, typer.Option("--provider", help="All accounts there.", autocompletion=complete_providers)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All sessions, agents' access, and accounts.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Otherwise only show what would end.")] = False,
    wait: Annotated[int, typer.Option("--wait", min=0, max=86400, help="Seconds to keep retrying what fails.")] = 60,
) -> None:
    """End access in bulk, also at the providers, and verify that it has ended. Without `--yes`, a dry run.

    After an interruption, run it again: it continues, and also ends what began since. A running server also continues.
    Exit code 0: nothing is outstanding; 3: the vault keeps trying; 4: end the rest on the providers' pages; 5: some
    tokens still work.
    """
    named: dict[Kind, str] = {}
    if user is not None:
        named["user"] = user
    if client is not None:
        named["client"] = client
    if provider is not None:
        named["provider"] = provider
    if all_:
        named["all"] = ""
    if len(named) != 1:
        fail("use one of --user, --client, --provider, and --all")
    ((kind, given),) = named.items()
    if not yes:
        _show_reach(setup, kind, setup.run(_reach(setup, kind, given)))
        return
    found, is_continued = setup.run(_end(setup, kind, given, wait=wait))
    fields = {**asdict(found), "continued": is_continued, "exit_code": exit_code(found)}
    setup.show_one(fields, sentence=in_words(found))
    raise typer.Exit(exit_code(found))


def exit_code(found: EndedCounts) -> int:
    """The exit code of the most serious outstanding item; 0 if there is none."""
    if found.still_alive:
        return STILL_ALIVE
    if found.by_hand or found.held:
        return BY_HAND
    return RETRIED if found.waiting or found.retried else 0


def in_words(found: EndedCounts) -> str:
    """The state of all ended grants, and what to do."""
    parts = [
        (found.verified_dead, "verified dead"),
        (found.settled, "ended by hand"),
        (found.unverified, "confirmed by the provider, but can't be verified"),
        (found.still_alive, "still alive"),
        (found.by_hand, "to end on the provider's page"),
        (found.held, "not revoked, because that would end another connection of the account"),
        (found.retried, "unreachable, will be retried"),
        (found.waiting, "waiting"),
    ]
    said = ", ".join(f"{number} {words}" for number, words in parts if number) or "none"
    more = "" if found.is_over else " See token-vault receipts list"
    return f"Grants: {said}.{more}"


_ACCESS: Final[Mapping[str, str]] = {
    "user": "end the person's sessions and agents' access, and ",
    "client": "remove the agent, and ",
    "provider": "",
    "all": "end all sessions and agents' access, and ",
}


def _show_reach(setup: Setup, kind: Kind, accounts: Mapping[str, int]) -> None:
    total = sum(accounts.values())
    listed = ", ".join(f"{number} at {provider}" for provider, number in accounts.items())
    sentence = (
        f"Dry run: this would {_ACCESS[kind]}disconnect {total} {'account' if total == 1 else 'accounts'}"
        f"{f' ({listed})' if listed else ''}. Add --yes to do it."
    )
    setup.show_one({"dry_run": True, "accounts": dict(accounts), "total": total}, sentence=sentence)


async def _subject(deployment: Deployment, kind: Kind, named: str) -> str:
    from server.terminal.names import find_client, provider_called, user_called
    from vault.upkeep import panics

    match kind:
        case "user":
            return (await user_called(deployment.database, named)).id
        case "client":
            client, near = await find_client(deployment.database, named)
            known = client.id if client is not None else await panics.find_client(deployment.database, named)
            return known or fail(f"no agent {named!r}.{near} See token-vault clients list")
        case "provider":
            return provider_called(deployment.catalog, named).name
        case "all":
            return ""


async def _reach(setup: Setup, kind: Kind, named: str) -> Mapping[str, int]:
    from vault.upkeep import panics

    async with setup.open(uses_accounts=False) as deployment:
        subject = await _subject(deployment, kind, named)
        since = await panics.first_asked(deployment.database, kind, subject, now=deployment.now(), only_open=True)
        return await panics.reach(deployment.database, kind, subject, since=since)


async def _end(setup: Setup, kind: Kind, named: str, *, wait: int) -> tuple[EndedCounts, bool]:
    """The state of the ended grants, and whether an unfinished request was continued."""
    from server.event_texts import when
    from server.terminal.progress import show_progress
    from vault.upkeep import panics

    async with setup.open(uses_accounts=False) as deployment:
        subject = await _subject(deployment, kind, named)
        async with deployment.transaction() as transaction:
            unfinished = await panics.find_open(transaction, kind, subject)
            request = unfinished or await panics.start(transaction, kind, subject, by=_BY, now=deployment.now())
            first = await panics.first_asked(transaction, kind, subject, now=request.requested_at)
        if unfinished is not None:
            note(f"Continuing the request from {when(unfinished.requested_at)}, which isn't finished.")
        with show_progress() as tell:
            if unfinished is None:
                await panics.go_on(deployment.vault, request, tell=tell)
            else:
                more = partial(note, "Also ending what began after that request.")
                await panics.finish(deployment.vault, unfinished, by=_BY, tell=tell, on_more=more)
            note("Every account is disconnected. Revoking at the providers; you can interrupt this and run it again.")
            return await _revoke(deployment, kind, subject, since=first, wait=wait, tell=tell), unfinished is not None


async def _revoke(
    deployment: Deployment, kind: Kind, subject: str, *, since: int, wait: int, tell: Tell
) -> EndedCounts:
    """Retry due revocations until no later attempt could change anything, or the time is up."""
    from vault.upkeep import panics, revocations

    stop, before, counted = time.monotonic() + wait, None, 0.0
    while True:
        tried = await revocations.run_due(deployment.vault)
        if tried and time.monotonic() < counted + _LOOK:
            continue
        counted = time.monotonic()
        found = await panics.count_ended(deployment.database, kind, subject, since=since)
        tell("revoke at the providers", found.total - found.waiting - found.retried, found.total)
        if found != before:  # there is progress: a provider may just have asked to wait
            stop, before = time.monotonic() + wait, found
        if tried:
            continue
        if found.is_over or time.monotonic() >= stop:
            return found
        if not (found.waiting or found.retried or found.still_alive):
            return found
        await asyncio.sleep(_LOOK)
