"""`explain`: why something does not work, and what to do about it. Reading only: no event, no token opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from server.commands.agents import UserOption
from server.commands.setup import Setup, command, say, user_named

if TYPE_CHECKING:
    from server.deployment import Deployment
    from vault.explain import Explanation

_WIDTH = 11


def register(root: typer.Typer) -> None:
    """Add the commands to the program."""

    @command(root, "explain")
    def explain(
        setup: Setup,
        *,
        client: Annotated[str, typer.Option("--client", help="The agent: its id, or its name.", show_default=False)],
        connection: Annotated[
            str, typer.Option("--connection", help="The connection: its id, or its account.", show_default=False)
        ],
        user: UserOption = None,
        scopes: Annotated[
            list[str] | None, typer.Option("--scopes", help="What the agent wants; repeat, or separate by blanks.")
        ] = None,
    ) -> None:
        """Say which precondition of an exchange fails and how to mend it; nothing is called or recorded."""
        wanted = None if scopes is None else frozenset(" ".join(scopes).split())
        found = setup.run(_explained(setup, user, client=client, connection=connection, scopes=wanted))
        _show(setup, found)
        if found.failing is not None:
            raise typer.Exit(1)


async def _explained(
    setup: Setup, user: str | None, *, client: str, connection: str, scopes: frozenset[str] | None
) -> Explanation:
    from vault.explain import Question, explain

    async with setup.open() as deployment:
        name = user if user is not None else (await user_named(deployment.database, None)).name
        question = Question(
            user_name=name,
            client_id=await _client_id(deployment, client),
            connection_id=await _connection_id(deployment, connection, user_name=name),
            scopes=scopes,
        )
        return await explain(question, vault=deployment.vault, now=deployment.now())


async def _client_id(deployment: Deployment, named: str) -> str:
    """The id of the client of that id or, if there is just one, that name."""
    from vault import clients

    known = await clients.list_clients(deployment.database)
    if any(one.id == named for one in known):
        return named
    matching = [one.id for one in known if one.name.casefold() == named.casefold()]
    return matching[0] if len(matching) == 1 else named


async def _connection_id(deployment: Deployment, named: str, *, user_name: str) -> str:
    """The id of the user's connection of that id or, if there is just one, that account."""
    from vault import connections, users

    owner = await users.find_user(deployment.database, user_name)
    if owner is None:
        return named
    matching = [
        one.id
        for one in await connections.list_connections(deployment.database, owner.id)
        if connections.names_account(named, id=one.id, account=one.account, label=one.label)
    ]
    return matching[0] if len(matching) == 1 else named


def _show(setup: Setup, found: Explanation) -> None:
    failing = found.failing
    if setup.as_json:
        setup.show_json(
            {
                "works": failing is None,
                "passed": [step.value for step in found.passed],
                "failing": None
                if failing is None
                else {
                    "step": failing.step.value,
                    "code": failing.code,
                    "sentence": failing.sentence,
                    "mend": failing.mend,
                },
                "scopes": sorted(found.scopes),
                "narrowing": found.narrowing,
                "refreshes": found.refreshes,
            }
        )
        return
    for step in found.passed:
        say(f"{step.value:{_WIDTH}}ok")
    if failing is not None:
        say(f"{failing.step.value:{_WIDTH}}{failing.code}: {failing.sentence}")
        say(f"{'':{_WIDTH}}mend: {failing.mend}")
        return
    after = ", after a refresh at the provider" if found.refreshes else ""
    say(f"An exchange gives {' '.join(sorted(found.scopes)) or 'no scope'} ({found.narrowing}{after}).")
