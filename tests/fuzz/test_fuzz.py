"""The seeds of each fuzz target and some mutations of them; `make fuzz` runs much longer, guided by coverage."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import TARGETS

MUTATIONS = 60


def mutate(data: bytes, chance: random.Random) -> bytes:
    """The input with one to four places changed, cut out, or repeated."""
    changed = bytearray(data or b"\0")
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        end = min(len(changed), at + chance.randint(1, 8))
        match chance.randrange(4):
            case 0:
                changed[at:end] = b""
            case 1:
                changed[at:at] = changed[at:end] * chance.randint(1, 20)
            case 2:
                changed[at:at] = bytes(chance.choices(b'\0\xff%&=;{}[]"\\/.:@#?,1e9 \r\n', k=chance.randint(1, 3)))
            case _:
                changed[at:end] = chance.randbytes(end - at)
        changed = changed or bytearray(b"\0")
    return bytes(changed)


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_parser_lets_nothing_out_but_its_own_refusals(name: str) -> None:
    target, chance = TARGETS[name], random.Random(name)
    for seed in target.seeds:
        target.run(seed)
        for _ in range(MUTATIONS):
            target.run(mutate(seed, chance))


def test_a_target_notices_what_it_must_not_let_through() -> None:
    with pytest.raises(AssertionError, match="another value"):
        TARGETS["sealed_value"].run(other_value())


def other_value() -> bytes:
    from tests.fuzz.targets import CONTEXT, KEY
    from vault.envelope import seal

    return seal(b"another value", key=KEY, key_id="k1", context=CONTEXT)
