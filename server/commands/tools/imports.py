"""`tools imports`: imported APIs that wait in the vault or are turned on; review their tools, and decide about each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from server.terminal.context import Setup, command, fail, say

if TYPE_CHECKING:
    from server.administration.actor import Actor
    from server.remote.imported_apis import ImportedToolReview
    from vault.mcp.imported_apis import ImportedApi

T = TypeVar("T")
Choice = Literal["accept", "ask", "leave"]
app = typer.Typer(no_args_is_help=True, help="Imported APIs: review their tools, and decide.")
Name = Annotated[str, typer.Argument(help="The name of the API.", show_default=False)]
Digest = Annotated[str, typer.Argument(help="The digest that `tools imports show` printed.", show_default=False)]
_SIGNS = {"same": " ", "added": "+", "removed": "-"}


@app.callback()
def imports_() -> None:
    """Imported APIs: review their tools, and decide."""


@command(app, "list")
def list_(setup: Setup) -> None:
    """List the imported APIs."""

    async def read() -> list[dict[str, object]]:
        from server.remote import imported_apis
        from vault.mcp.imported_apis import list_apis

        async with setup.open() as deployment:
            return [dict(imported_apis.state_of(deployment, one)) for one in await list_apis(deployment.database)]

    columns = ("name", "address", "usable", "left", "is_waiting", "waiting", "problem")
    setup.show(setup.run(read()), columns=columns, empty="No imported APIs.")


@command(app, "show")
def show(setup: Setup, name: Name) -> None:
    """Show the tools of an imported API, and what changed since they were accepted."""
    from server.remote import imported_apis

    async def read() -> ImportedApi:
        async with setup.open() as deployment:
            return await imported_apis.api_named(deployment, name)

    api = setup.run(read())
    review, whole = imported_apis.review_of(api), imported_apis.import_digest(api.whole)
    if setup.as_json:
        tools = [
            {"name": one.name, "state": one.state, "choice": one.choice, "lines": _lines(one)} for one in review.tools
        ]
        setup.show_json(
            {
                "name": name,
                "digest": api.digest,
                "import_digest": whole,
                "addresses": list(review.addresses.values()),
                "audience": review.audience,
                "tools": tools,
                "gone": list(review.gone),
            }
        )
        return
    for url in review.addresses.values():
        say(f"Tokens with the audience {review.audience} go to {url}.")
    for one in review.tools:
        say(f"\n{one.name}: {one.state}, proposed: {one.choice}" if api.offered else f"\n{one.name}: {one.choice}")
        for line in _lines(one):
            say(f"  {line}")
    for gone in review.gone:
        say(f"\n{gone}: gone; deciding turns it off")
    say(f"\nTo decide about what you saw: token-vault tools imports decide {name} {api.digest}")
    say(f'To accept this import in a declaration: reviewed = "{whole}"')


def _lines(tool: ImportedToolReview) -> list[str]:
    return [f"{part.name}: {_SIGNS[line.mark]} {line.text}" for part in tool.parts for line in part.lines]


@command(app, "decide")
def decide(
    setup: Setup,
    name: Name,
    digest: Digest,
    *,
    accept: Annotated[list[str] | None, typer.Option(help="Offer this tool without approval. Repeatable.")] = None,
    ask: Annotated[list[str] | None, typer.Option(help="Ask the person each time. Repeatable.")] = None,
    leave: Annotated[list[str] | None, typer.Option(help="Leave this tool out. Repeatable.")] = None,
) -> None:
    """Turn on tools as you reviewed them; tools you don't name get the choice that `show` proposes. To change it,
    decide again."""
    given: tuple[tuple[Choice, list[str] | None], ...] = (("accept", accept), ("ask", ask), ("leave", leave))
    chosen: dict[str, Choice] = {}
    for choice, tools in given:
        for tool in tools or []:
            if tool in chosen:
                fail(f"{tool} is named with --{chosen[tool]} and --{choice}: use one of them")
            chosen[tool] = choice

    async def change(actor: Actor) -> int:
        from server.remote import imported_apis

        return await imported_apis.decide(actor, name, digest, chosen)

    number = setup.run(_as_operator(setup, change))
    setup.show_one({"name": name, "accepted": number}, sentence=f"Accepted tools of {name}: {number}.")


@command(app, "discard")
def discard(setup: Setup, name: Name, digest: Digest) -> None:
    """Discard a waiting import. Tools accepted before stay on."""

    async def change(actor: Actor) -> None:
        from server.remote import imported_apis

        await imported_apis.discard(actor, name, digest)

    setup.run(_as_operator(setup, change))
    setup.show_one({"name": name}, sentence=f"Discarded the import of {name}.")


@command(app, "remove")
def remove(setup: Setup, name: Name) -> None:
    """Remove an imported API to which no account is connected."""

    async def change(actor: Actor) -> None:
        from server.remote import imported_apis

        await imported_apis.remove(actor, name)

    setup.run(_as_operator(setup, change))
    setup.show_one({"name": name}, sentence=f"Removed {name}.")


async def _as_operator(setup: Setup, change: Callable[[Actor], Awaitable[T]]) -> T:
    from server.administration.actor import Actor

    async with setup.open() as deployment:
        return await change(Actor(deployment, None, "command_line"))
