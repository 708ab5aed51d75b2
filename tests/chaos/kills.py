"""SIGKILL at every step of a refresh, for every class of provider, on both databases; then a start, and the books."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from dataclasses import dataclass
from typing import Any

from tests.chaos.dying import STEPS
from tests.chaos.figures import Figure, Scale
from tests.chaos.world import (
    PATIENCE,
    ROOT,
    World,
    environment,
    fresh_store,
    open_world,
    postgres_server,
    strict_provider,
)

GRACE = 60


@dataclass(frozen=True)
class Class:
    """How the simulator behaves, and what the provider's file says of it."""

    name: str
    rotation: str
    simulator: dict[str, object]

    @property
    def survives_the_gap(self) -> bool:
        """Whether an answer that died with its process can be had again."""
        return self.rotation in ("none", "grace")

    def most_spent_twice(self, step: str) -> int | None:
        """How often a token may come again; None where that is harmless.

        Where re-use is refused or revokes, one try after the death is right, but only of a token that may be unspent.
        """
        return None if self.survives_the_gap else int(step == "answered")


CLASSES = (
    Class("stays", "none", {"mode": "none"}),
    Class("grace, sent again", "grace", {"mode": "grace", "grace": GRACE, "answer": "resend"}),
    Class("grace, a sibling", "grace", {"mode": "grace", "grace": GRACE, "answer": "sibling"}),
    Class("re-use refused", "strict", {"mode": "strict"}),
    Class("re-use revokes", "revokes", {"mode": "reuse_revokes_family"}),
)


async def exchange_once(world: World, provider_class: Class, *, step: str) -> dict[str, Any] | None:
    """What one process says of its exchange; None when it was killed."""
    about = {
        "data": str(world.store.data),
        "database": world.store.url,
        "providers": world.provider.providers,
        "principal": world.principal,
        "rotation": provider_class.rotation,
        "grace": GRACE if provider_class.rotation == "grace" else 0,
        "step": step,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.dying", json.dumps(about),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=environment(),
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE):
        said, _ = await process.communicate()
    if process.returncode == -signal.SIGKILL:
        return None
    assert process.returncode == 0, process.returncode
    return json.loads(said)


async def kill_at(world: World, provider_class: Class, step: str) -> list[str]:
    """Kill one process at the step, start another; what is wrong with how it went on."""
    await world.expire()
    assert await exchange_once(world, provider_class, step=step) is None, "the process lived"
    after = await exchange_once(world, provider_class, step="")
    assert after is not None
    kept = step != "answered" or provider_class.survives_the_gap
    wanted = "ok" if kept else "connection_required"
    wrong: list[str] = []
    if after["outcome"] != wanted:
        wrong.append(f"{provider_class.name} at {step}: {after['outcome']}, not {wanted}")
    most = provider_class.most_spent_twice(step)
    if most is not None and (twice := await world.spent_twice()) > most:
        wrong.append(f"{provider_class.name} at {step}: {twice} spent twice")
    if after["ms"] > 1000:
        wrong.append(f"{provider_class.name} at {step}: {after['ms']:.0f} ms")
    return wrong


async def figures(scale: Scale) -> list[Figure]:
    """Every step and class; SMALL only on SQLite."""
    wrong: list[str] = []
    count = 0
    async with postgres_server() as server:
        for place in (None, server) if scale is Scale.FULL else (None,):
            for provider_class in CLASSES:
                for step in STEPS:
                    async with (
                        fresh_store(place) as store,
                        strict_provider(**provider_class.simulator) as provider,
                        open_world(store, provider) as world,
                    ):
                        wrong += await kill_at(world, provider_class, step)
                        count += 1
    said = "; ".join(wrong) or f"{count} of {count} as wanted"
    return [
        Figure(
            "SIGKILL at every step of a refresh x 5 classes" + (" x both databases" if scale is Scale.FULL else ""),
            said,
            "nothing lost outside the gap, nothing spent twice, the next caller knows within 1 s",
            holds=not wrong,
        )
    ]
