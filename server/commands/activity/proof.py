"""`activity prove`: prove that an event happened to someone who has no access to the vault and doesn't trust it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.terminal.context import Setup, say

if TYPE_CHECKING:
    from server.checkpoints.event_proofs import EventProof


def prove(
    setup: Setup,
    event: Annotated[int, typer.Argument(help="Number of the event.", min=1, show_default=False)],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", help="File to write the proof to.", show_default="standard output")
    ] = None,
) -> None:
    """Write a proof (C2SP tlog-proof) that this event is in the signed activity; anyone can check it."""
    proof = setup.run(_prove(setup, event))
    row = {"sequence": proof.sequence, "index": proof.index, "events": proof.events, "origin": proof.origin}
    if output is None:
        if setup.as_json:
            setup.show_json({**row, "proof": proof.text})
        else:
            say(proof.text.removesuffix("\n"))
        return
    output.write_text(proof.text, encoding="utf-8")
    sentence = f"{output}: event {event}, in a checkpoint of {proof.events} events signed by {proof.origin}."
    setup.show_one({**row, "file": str(output)}, sentence=sentence)


async def _prove(setup: Setup, sequence: int) -> EventProof:
    from server.checkpoints.event_proofs import sign_and_prove

    async with setup.open() as deployment:
        return await sign_and_prove(deployment, sequence)
