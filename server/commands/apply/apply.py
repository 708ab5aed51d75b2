"""`apply FILE`: change people, groups, agents, APIs, and providers to match a TOML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.terminal.context import Setup, fail, note, say

if TYPE_CHECKING:
    from server.administration.declaration import Declaration
    from server.administration.declarations.planned_changes import PlannedChange
    from server.administration.reconciliation import AppliedChange

_PENDING = 2  # exit code of --plan


def apply(
    setup: Setup,
    file: Annotated[
        Path, typer.Argument(help="TOML file with people, groups, agents, apis, and providers.", show_default=False)
    ],
    *,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would change. The exit code is 2 if anything would.")
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Also remove what the file's sections don't name.")] = False,
) -> None:
    """Create or change people, groups, agents, APIs, and providers as a file says."""
    from server.administration.declaration import DeclarationRefused, read_declaration

    try:
        wanted = read_declaration(file.expanduser())
    except DeclarationRefused as refused:
        fail(str(refused))
    pending, made = setup.run(_apply(setup, wanted, is_dry=plan, prunes=prune))
    secrets = {id(one.change): one.secret for one in made}
    if setup.as_json:
        rows = [_row(one) | ({} if plan else {"secret": secrets.get(id(one))}) for one in pending]
        setup.show_json({"applied": not plan, "changes": rows})
    else:
        for one in pending:
            say("\n".join(_lines(one)))
            if secret := secrets.get(id(one)):
                say(f"    {'sign_in_link' if one.kind == 'person' else 'client_secret'}: {secret}")
        done = "Nothing to change." if not pending else f"{len(pending)} {'to make' if plan else 'made'}."
        note(done)
    if any(secrets.values()):
        note("Links and secrets are shown only once.")
    if plan and pending:
        raise typer.Exit(_PENDING)


async def _apply(
    setup: Setup, wanted: Declaration, *, is_dry: bool, prunes: bool
) -> tuple[tuple[PlannedChange, ...], tuple[AppliedChange, ...]]:
    from server.administration import reconciliation
    from server.administration.actor import Actor
    from server.remote import declared_servers

    async with setup.open() as deployment:
        pending = await declared_servers.plan(Actor(deployment, None, "command_line"), wanted, prunes=prunes)
        return pending, () if is_dry else await reconciliation.apply(pending)


def _row(one: PlannedChange) -> dict[str, object]:
    differences = {found.name: {"before": found.before, "after": found.after} for found in one.differences}
    return {"change": one.verb, "kind": one.kind, "name": one.name, "differences": differences}


def _lines(one: PlannedChange) -> list[str]:
    sign = {"create": "+", "update": "~", "remove": "-"}[one.verb]
    lines = [f"{sign} {one.kind} {one.name}"]
    for found in one.differences:
        if one.verb == "create" and not found.after:
            continue  # the default, if not given
        before, after = (json.dumps(value, ensure_ascii=False, default=str) for value in (found.before, found.after))
        lines.append(f"    {found.name}: {after}" if one.verb == "create" else f"    {found.name}: {before} -> {after}")
    return lines
