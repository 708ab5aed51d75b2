"""`enterprise ...`: companies with an identity provider that admits agents, and the effect of their assertions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from server.event_texts import when
from server.terminal.completion import complete_users
from server.terminal.context import Setup, UserOption, command, fail, say, say_with_label
from server.terminal.names import ClientName, client_called, user_called, user_named

if TYPE_CHECKING:
    from server.deployment import Deployment
    from server.oauth.enterprise.explanation import AssertionExplanation
    from vault.company_permissions import CompanyPermission
    from vault.records import User

app = typer.Typer(no_args_is_help=True, help="Agents that a company's identity provider admits.")
_WIDTH = 10
UserArgument = Annotated[
    str,
    typer.Argument(metavar="USER", help="Name or ID.", show_default=False, autocompletion=complete_users),
]
CompanyOption = Annotated[
    str | None,
    typer.Option("--company", help="The company's NAME in the settings. Default: the only one.", show_default=False),
]


@command(app, "list")
def list_(setup: Setup) -> None:
    """List companies and the rules for their agents."""
    rows = [
        {
            "company": name,
            "issuer": one.issuer,
            "rule": rule_name,
            "agents": list(rule.agents),
            "groups": list(rule.groups),
            "scopes": list(rule.scopes),
            "accounts": {provider: list(words) for provider, words in rule.accounts.items()},
            "tools": list(rule.tools),
        }
        for name, one in setup.settings().enterprise.items()
        for rule_name, rule in one.allow.items()
    ]
    setup.show(
        rows,
        columns=("company", "rule", "agents", "groups", "accounts"),
        empty="No company admits agents. See enterprise.NAME in the settings",
    )


@command(app, "permissions")
def list_permissions(setup: Setup, *, user: UserOption = None) -> None:
    """List what companies allow a user's agents to do."""

    async def read() -> list[dict[str, object]]:
        from vault import clients, company_permissions

        async with setup.open() as deployment:
            owner = await user_named(deployment.database, user)
            found = await company_permissions.list_for_user(deployment.database, owner.id)
            named = {one.client_id: await clients.get_client(deployment.database, one.client_id) for one in found}
            return [
                _fields(one) | {"agent": None if (it := named[one.client_id]) is None else it.name} for one in found
            ]

    columns = ("company", "agent", "scopes", "accounts", "expires_at", "ended_at")
    setup.show(setup.run(read()), columns=columns, empty="No company allows agents to act for this user.")


def _fields(found: CompanyPermission) -> dict[str, object]:
    return {
        "company": found.company,
        "client_id": found.client_id,
        "scopes": sorted(found.scopes),
        "accounts": {provider: sorted(words) for provider, words in found.accounts.items()},
        "renewed_at": when(found.renewed_at),
        "expires_at": when(found.expires_at),
        "ended_at": when(found.ended_at),
        "ended_reason": found.ended_reason,
    }


@command(app, "end")
def end(setup: Setup, user: UserArgument, client: ClientName, *, company: CompanyOption = None) -> None:
    """End a company's permission for an agent and user. Permissions from the user stay."""

    async def change() -> CompanyPermission:
        from server.administration import companies
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            actor = Actor(deployment, None, "command_line")
            found = await _permission_called(deployment, user, client, company)
            await companies.end(actor, found)
            return found

    found = setup.run(change())
    again = f"token-vault enterprise resume {user} {client}"
    setup.show_one(_fields(found), sentence=f"Its tokens no longer work. To admit it again: {again}")


@command(app, "resume")
def resume(setup: Setup, user: UserArgument, client: ClientName, *, company: CompanyOption = None) -> None:
    """Resume a company's permission that a user or admin ended."""

    async def change() -> CompanyPermission:
        from server.administration import companies
        from server.administration.actor import Actor

        async with setup.open() as deployment:
            found = await _permission_called(deployment, user, client, company)
            return await companies.resume(Actor(deployment, None, "command_line"), found)

    left = setup.run(change())
    sentence = "Its next assertion will be accepted."
    if left.ended_at is not None:
        sentence = "The user cut it off, too: its assertions are refused until they sign it in, or you resume it again."
    setup.show_one(_fields(left), sentence=sentence)


async def _permission_called(deployment: Deployment, user: str, client: str, company: str | None) -> CompanyPermission:
    from vault import company_permissions

    owner: User = await user_called(deployment.database, user)
    agent = await client_called(deployment.database, client)
    held = [
        one
        for one in await company_permissions.list_for_user(deployment.database, owner.id)
        if one.client_id == agent.id and company in {None, one.company}
    ]
    if len(held) > 1:
        fail(f"several companies admit it: {', '.join(one.company for one in held)}. Choose one with --company")
    return held[0] if held else fail("no company allows that agent to act for this user")


@command(app, "explain")
def explain(setup: Setup) -> None:
    """Explain the effect of an assertion on standard input. The assertion isn't used up."""
    if sys.stdin.isatty():
        fail("pass the assertion on standard input")
    token = sys.stdin.read().strip()

    async def look() -> AssertionExplanation:
        from server.oauth.enterprise.explanation import explain_assertion

        async with setup.open() as deployment:
            return await explain_assertion(deployment, token)

    found = setup.run(look())
    _show(setup, found)
    if found.reason:
        raise typer.Exit(1)


def _show(setup: Setup, found: AssertionExplanation) -> None:
    from server.oauth.enterprise.refusals import REFUSALS

    refusal = REFUSALS.get(found.reason)
    fix = None if refusal is None else refusal.fix.replace("enterprise.NAME", f"enterprise.{found.company or 'NAME'}")
    row: dict[str, object] = {
        "works": refusal is None,
        "reason": found.reason or None,
        "sentence": None if refusal is None else refusal.description,
        "fix": fix,
        "company": found.company or None,
        "agent": None if found.client is None else found.client.id,
        "user": None if found.person is None else found.person.name,
        "known_by": found.known_by or None,
        "rules": list(found.rules),
        "scopes": sorted(found.scopes),
        "accounts": {provider: sorted(words) for provider, words in found.accounts.items()},
    }
    if setup.as_json:
        setup.show_json(row)
        return
    for label in ("company", "agent", "user", "known_by"):
        if row[label] is not None:
            say_with_label(f"{label.replace('_', ' '):{_WIDTH}}", str(row[label]))
    if refusal is None:
        say_with_label(f"{'rules':{_WIDTH}}", ", ".join(found.rules))
        words = "; ".join(f"{provider}: {' '.join(sorted(some))}" for provider, some in found.accounts.items())
        say_with_label(f"{'accounts':{_WIDTH}}", words or "none")
        say(f"A token with the scopes {' '.join(sorted(found.scopes))} would be issued.")
        return
    say_with_label(f"{'refused':{_WIDTH}}", f"{found.reason}: {refusal.description}")
    say_with_label(f"{'fix':{_WIDTH}}", fix or "")
