"""`activity prove`: prove that an event happened to someone who has no access to the vault and doesn't trust it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.terminal.context import Setup, fail, say


def prove(
    setup: Setup,
    event: Annotated[int, typer.Argument(help="Number of the event.", min=1, show_default=False)],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write the proof to.", show_default="standard output")
    ] = None,
) -> None:
    """Write a proof (C2SP tlog-proof) that this event is in the signed activity; anyone can check it."""
    proof, row = setup.run(_prove(setup, event))
    if output is None:
        if setup.as_json:
            setup.show_json({**row, "proof": proof})
        else:
            say(proof.removesuffix("\n"))
        return
    output.write_text(proof, encoding="utf-8")
    sentence = f"{output}: event {event}, in a checkpoint of {row['events']} events signed by {row['origin']}."
    setup.show_one({**row, "file": str(output)}, sentence=sentence)


async def _prove(setup: Setup, sequence: int) -> tuple[str, dict[str, object]]:
    from server.checkpoints.publication import current_log
    from vault.audit.log import issue, newest_note
    from vault.audit.merkle import leaf_hash, root_of_inclusion
    from vault.audit.notes import write_proof
    from vault.audit.proof import ChainBroken
    from vault.audit.tree import Tree, count_leaves, list_leaves

    async with setup.open() as deployment:
        database, key = deployment.database, deployment.database.event_key
        log = await current_log(deployment)
        index = sequence - log.base - 1
        if index < 0:
            fail(f"event {sequence} is older than the tree, which begins at event {log.base + 1}")
        issued = await newest_note(database, log)
        if issued is None or issued.head.size <= index:
            issued = await issue(database, log, now=deployment.now())
        if issued is None or issued.head.size <= index or key is None:
            fail(f"there is no event {sequence} yet")
        found = await list_leaves(database, key, after=sequence - 1, limit=1)
        if not found or found[0][0].sequence != sequence:
            fail(f"event {sequence} was pruned: its hash is still in the tree, but its content isn't in the vault")
        data, size = found[0][1], issued.head.size
        path = await Tree(database, log.base, await count_leaves(database)).prove(index, size)
        if root_of_inclusion(leaf_hash(data), index, size, path) != issued.head.root:
            raise ChainBroken(sequence, "it doesn't match the signed checkpoint")
        proof = write_proof(index=index, path=path, note=issued.note, extra=data)
        return proof, {"sequence": sequence, "index": index, "events": size, "origin": log.origin}
