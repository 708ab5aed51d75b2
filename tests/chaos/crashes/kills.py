"""SIGKILL at every step of a refresh, for every class of provider, on both databases; then a check of the records."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.chaos.figures import Figure, Scale
from tests.chaos.processes.kill_points import STEPS
from tests.chaos.processes.nursery import Nursery, open_nursery
from tests.chaos.world import PATIENCE, Server, World, fresh_store, open_world, postgres_server, strict_provider

GRACE = 60
WIRE = ("arrived", "handled")  # the request is at the provider, which has or hasn't processed it: killed from outside


@dataclass(frozen=True)
class Class:
    """How the simulator behaves, and what the provider's file says about it."""

    name: str
    rotation: str
    simulator: dict[str, object]

    @property
    def survives_the_gap(self) -> bool:
        """Whether the answer can be obtained again after its process died."""
        return self.rotation in ("none", "grace")

    def most_spent_twice(self, step: str) -> int | None:
        """How often a token may be presented again; None if that is harmless.

        If reuse is refused or revokes the grant, one attempt after the process died is right, but only if the token may
        be unused.
        """
        return None if self.survives_the_gap else int(step in IN_THE_GAP)


IN_THE_GAP = ("answered", "handled")
CLASSES = (
    Class("stays", "none", {"mode": "none"}),
    Class("grace, sent again", "grace", {"mode": "grace", "grace": GRACE, "answer": "resend"}),
    Class("grace, a sibling", "grace", {"mode": "grace", "grace": GRACE, "answer": "sibling"}),
    Class("re-use refused", "strict", {"mode": "strict"}),
    Class("re-use revokes", "revokes", {"mode": "reuse_revokes_family"}),
)


def order(world: World, provider_class: Class, *, step: str) -> dict[str, object]:
    """The orders for a process: one account, at a provider of this class."""
    return {
        "data": str(world.store.data),
        "settings": {
            "database": {"url": world.store.url},
            "providers": world.provider.providers,
            "sandbox": {"loopback_upstreams": True},
        },
        "accounts": {"slack": {"principal": world.principal, "provider": "slack"}},
        "policy": {
            "rotation": provider_class.rotation,
            "grace": GRACE if provider_class.rotation == "grace" else 0,
        },
        "dies_at": step,
    }


async def die_at(world: World, nursery: Nursery, provider_class: Class, step: str) -> None:
    """One process refreshes and is killed at this step."""
    if step in WIRE:
        when = "before" if step == "arrived" else "after"
        await world.provider.control("faults", endpoint="slack.token.refresh", kind="hold", when=when)
    dying = await nursery.start(order(world, provider_class, step="" if step in WIRE else step))
    assert (await dying.answer())["ready"]
    dying.tell(exchange=None)
    async with asyncio.timeout(PATIENCE):
        if step in WIRE:
            await world.provider.holds(1)
            await dying.kill()
            await world.provider.holds(0)  # it notices that the caller has left
        await dying.wait_until_gone()


async def kill_at(
    world: World, nursery: Nursery, provider_class: Class, step: str, *, within: float = 1.0
) -> list[str]:
    """Kill one process at this step and start another; return what the second one did wrong. `within`: seconds."""
    await world.expire()
    await die_at(world, nursery, provider_class, step)
    heir = await nursery.start(order(world, provider_class, step=""))
    assert (await heir.answer())["ready"]
    outcome, milliseconds = (await heir.ask(exchange=None))["calls"]["slack"]
    await heir.kill()
    kept = step not in IN_THE_GAP or provider_class.survives_the_gap
    wanted = "ok" if kept else "needs_reauth"
    wrong: list[str] = []
    if outcome != wanted:
        wrong.append(f"{provider_class.name} at {step}: {outcome}, not {wanted}")
    most = provider_class.most_spent_twice(step)
    if most is not None and (twice := await world.spent_twice()) > most:
        wrong.append(f"{provider_class.name} at {step}: {twice} spent twice")
    if milliseconds > 1000 * within:
        wrong.append(f"{provider_class.name} at {step}: {milliseconds:.0f} ms")
    return wrong


async def kill_everywhere(place: Server | None, nursery: Nursery) -> list[str]:
    """Try every step and class on one database."""
    wrong: list[str] = []
    async with strict_provider() as provider:
        for provider_class in CLASSES:
            for step in (*STEPS, *WIRE):
                await provider.control("reset")
                await provider.control("rotation", face="slack", **provider_class.simulator)
                async with fresh_store(place) as store, open_world(store, provider) as world:
                    wrong += await kill_at(world, nursery, provider_class, step)
    return wrong


async def figures(scale: Scale) -> list[Figure]:
    """Run both databases at once; SMALL runs only SQLite."""
    async with postgres_server() as server, open_nursery() as nursery:
        places = (None, server) if scale is Scale.FULL else (None,)
        found = await asyncio.gather(*(kill_everywhere(place, nursery) for place in places))
    wrong = [line for lines in found for line in lines]
    count = len(places) * len(CLASSES) * len((*STEPS, *WIRE))
    return [
        Figure(
            "SIGKILL at every step of a refresh x 5 classes" + (" x both databases" if scale is Scale.FULL else ""),
            "; ".join(wrong) or f"{count} of {count} as wanted",
            "nothing lost outside the gap, nothing spent twice, the next caller knows within 1 s",
            holds=not wrong,
        )
    ]
