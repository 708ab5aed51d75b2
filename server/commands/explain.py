"""`explain`: which precondition of an exchange fails, and how to fix it.

Records nothing, and only queries the operator's own policy. For an application that uses Auth0's interface, it also
explains what that interface needs before the exchange (`server.auth0.explanation`); for a company's agent, what the
company allows it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from server.event_texts import when
from server.terminal.completion import complete_clients, complete_connections
from server.terminal.context import Setup, UserOption, note, say, say_with_label
from server.terminal.names import find_client, find_connection, find_user, user_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.administration.explanations.exchanges import ExplainedExchange
    from server.auth0.explanation import WireStep
    from vault.records import User
    from vault.storage.database import Reader

_WIDTH = 11

_GIVES = {
    "nothing": "nothing: the client isn't registered for token exchange",
    "handle": "a handle for calls through the vault",
    "upstream token": "the provider's own token",
}


def explain(
    setup: Setup,
    *,
    client: Annotated[
        str,
        typer.Option(
            "--client", help="The agent: its ID or name.", show_default=False, autocompletion=complete_clients
        ),
    ],
    connection: Annotated[
        str,
        typer.Option(
            "--connection",
            help="The connection: its ID, account, or provider.",
            show_default=False,
            autocompletion=complete_connections,
        ),
    ],
    user: UserOption = None,
    scopes: Annotated[
        list[str] | None,
        typer.Option("--scopes", help="Scopes to request; repeat for several. Default: all of its scopes."),
    ] = None,
) -> None:
    """Explain why an agent can't use an account.

    The exit code is 1 if a check fails. Otherwise, the last line says what the client would get at `/token`.
    """
    wanted = None if scopes is None else frozenset(" ".join(scopes).split())
    found, wire = setup.run(_explain(setup, user, client=client, connection=connection, scopes=wanted))
    _show(setup, found, wire)
    if found.explanation.first_failure is not None or any(one.fix for one in wire):
        raise typer.Exit(1)


async def _explain(
    setup: Setup, user: str | None, *, client: str, connection: str, scopes: frozenset[str] | None
) -> tuple[ExplainedExchange, Sequence[WireStep]]:
    from server.administration.explanations.exchanges import explain_exchange
    from server.auth0.explanation import WireQuestion, explain_wire, is_about_auth0
    from server.auth0.names import provider_of
    from server.oauth.token_request import PURPOSE
    from vault.exchange.explain import ExchangeQuestion

    async with setup.open() as deployment:
        owner, near = await _find_owner(deployment.database, user)
        agent, near_client = await find_client(deployment.database, client)
        near += near_client
        account = None
        is_auth0 = agent is not None and is_about_auth0(agent)
        if owner is not None:
            named = provider_of(deployment, connection) if is_auth0 else None
            account, near_account = await find_connection(
                deployment, owner, connection if named is None else named.name, has_groups=True
            )
            near += near_account
        if near:
            note(near.strip())
        question = ExchangeQuestion(
            user_name=owner.name if owner is not None else user or "",
            client_id=client if agent is None else agent.id,
            connection_id=connection if account is None else account.id,
            scopes=scopes,
            purpose=PURPOSE,
        )
        found = await explain_exchange(deployment, question, client=agent, owner=owner)
        wire: Sequence[WireStep] = ()
        if agent is not None and is_auth0:
            provider = None if account is None else account.provider
            wire = await explain_wire(deployment, WireQuestion(agent, owner, question.connection_id, provider))
        return found, wire


async def _find_owner(reader: Reader, named: str | None) -> tuple[User | None, str]:
    """Like `user_named`, but returns None with a suggestion for an unknown name, which is a finding here."""
    return (await user_named(reader, None), "") if named is None else await find_user(reader, named)


def _show(setup: Setup, explained: ExplainedExchange, wire: Sequence[WireStep]) -> None:
    from vault.exchange.explain import StepOutcome

    found, handing, companies = explained.explanation, explained.handed_out, explained.companies
    failing = found.first_failure
    if setup.as_json:
        setup.show_json(
            {
                "works": failing is None and not any(one.fix for one in wire),
                "steps": [
                    {
                        "step": one.step.value,
                        "outcome": one.outcome.value,
                        "sentence": (one.why if one.failure is None else one.failure.sentence) or None,
                        "fix": None if one.failure is None else one.failure.fix,
                    }
                    for one in found.steps
                ],
                "passed": [step.value for step in found.passed_steps],
                "failing": None
                if failing is None
                else {
                    "step": failing.step.value,
                    "code": failing.code,
                    "sentence": failing.sentence,
                    "fix": failing.fix,
                },
                "scopes": sorted(found.scopes),
                "narrowing": found.narrowing,
                "refreshes": found.refreshes,
                "asks": found.asks,
                "standing": [asdict(one) for one in found.standing],
                "release": None if handing is None else asdict(handing),
                "auth0": [asdict(one) for one in wire],
                "companies": [{**asdict(one), "until": when(one.until)} for one in companies],
            }
        )
        return
    for one in wire:
        if one.fix:
            say_with_label(f"{one.step:{_WIDTH}}", f"Auth0's interface: {one.sentence}")
            say_with_label(f"{'':{_WIDTH}}fix: ", one.fix)
    for one in companies:
        until = "" if one.until is None else f" until {when(one.until)}"
        say_with_label(f"{'company':{_WIDTH}}", f"{one.sentence}{until}")
        if one.fix:
            say_with_label(f"{'':{_WIDTH}}fix: ", one.fix)
    for one in found.steps:
        label = f"{one.step.value:{_WIDTH}}"
        if one.failure is not None:
            say_with_label(label, f"{one.failure.code}: {one.failure.sentence}")
            say_with_label(f"{'':{_WIDTH}}fix: ", one.failure.fix)
        elif one.outcome is StepOutcome.OK:
            say_with_label(label, f"ok, {one.why}" if one.why else "ok")
        else:
            say_with_label(label, f"{one.outcome.value}: {one.why}")
    if failing is not None:
        return
    after = ", after a refresh at the provider" if found.refreshes else ""
    say(f"An exchange returns {' '.join(sorted(found.scopes)) or 'no scope'} ({found.narrowing}{after}).")
    if found.asks:
        say("A tool call waits for the person's approval; at /token, only an exchange under release policy full does.")
        for one in found.standing:
            left = f"{one.left} of {one.per_day} calls left today"
            say(f"Standing approval {one.id} allows {one.tool} for one target: {left}.")
    elif handing is not None:
        say(f"At /token, this client receives {_GIVES[handing.gives]} (release policy {handing.policy}).")
