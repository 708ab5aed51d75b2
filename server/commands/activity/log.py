"""`activity checkpoint`, `activity keys` and `activity rotate-key`: the signed log over the activity."""

from __future__ import annotations

from typing import Annotated

import typer

from server.event_texts import when
from server.terminal.context import Setup, say


def checkpoint(
    setup: Setup,
    *,
    check: Annotated[bool, typer.Option("--check", help="Only try each destination.")] = False,
) -> None:
    """Sign a checkpoint now and send it to every destination in the settings."""
    is_done = setup.run(_check(setup) if check else _checkpoint(setup))
    if not is_done:
        raise typer.Exit(1)


async def _checkpoint(setup: Setup) -> bool:
    from server.checkpoints.publication import publish

    async with setup.open() as deployment:
        issued, results = await publish(deployment, at_once=True)
    if issued is None:
        setup.show_one({"events": 0}, sentence="There are no events yet.")
        return True
    if setup.as_json:
        rows = [{"destination": one.destination, "failure": one.failure} for one in results]
        setup.show_json({"origin": issued.head.origin, "events": issued.head.size, "destinations": rows})
    else:
        say(str(issued.note).removesuffix("\n"))
        say(
            "\n".join(f"{one.destination}: {one.failure or 'has it'}" for one in results)
            or "It has no destination: add one in the section checkpoints of the settings."
        )
    return all(one.failure is None for one in results)


async def _check(setup: Setup) -> bool:
    from server.checkpoints.publication import check_destinations

    async with setup.open() as deployment:
        found = await check_destinations(deployment)
    rows = [{"destination": name, "works": works, "says": sentence} for name, works, sentence in found]
    setup.show(
        rows,
        columns=("destination", "works", "says"),
        empty="No destination: see the section checkpoints of the settings.",
    )
    return all(works for _, works, _ in found)


def list_keys(setup: Setup) -> None:
    """List the log's verifier keys, for witnesses and anyone who checks proofs."""

    async def read() -> list[dict[str, object]]:
        from server.checkpoints import event_proofs
        from server.checkpoints.publication import current_log

        async with setup.open() as deployment:
            await current_log(deployment)
            return [
                {
                    "key": str(one.key.verifier),
                    "signs": one.signs,
                    "active_at": when(one.key.active_at),
                    "retired_at": when(one.key.retired_at),
                }
                for one in await event_proofs.list_keys(deployment)
            ]

    setup.show(setup.run(read()), columns=("signs", "active_at", "retired_at", "key"), empty="No keys.")


def rotate_key(setup: Setup) -> None:
    """Start signing with a new key; the previous key also signs for 30 days."""

    async def work() -> str:
        from server.checkpoints.publication import current_log
        from vault.audit.log import rotate_log_key

        async with setup.open() as deployment:
            log = await current_log(deployment)
            return str(await rotate_log_key(deployment.database, log, now=deployment.now()))

    made = setup.run(work())
    setup.show_one({"key": made}, sentence=f"{made}\nGive it to the witness and to anyone who checks proofs.")
