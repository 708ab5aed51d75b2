"""Verification events that this vault requested (SSF 1.0 §8.1.4): their state, and whether they arrived."""

from __future__ import annotations

from typing import Final

from server.deployment import Deployment
from vault import replay
from vault.storage.database import Reader, Transaction

LIFETIME: Final = 86_400  # seconds in which it may arrive
_ASKED: Final = "ssf-asked"
_CAME: Final = "ssf-came"


async def expect(deployment: Deployment, name: str, state: str) -> None:
    """Remember that an event with this state may arrive."""
    now = deployment.now()
    async with deployment.transaction() as transaction:
        await replay.first_use(transaction, _ASKED, _value(name, state), expires_at=now + LIFETIME, now=now)


async def is_expected(reader: Reader, name: str, state: str, *, now: int) -> bool:
    """Whether this vault requested it from that transmitter."""
    return await replay.is_seen(reader, _ASKED, _value(name, state), now=now)


async def note(transaction: Transaction, name: str, state: str, *, now: int) -> None:
    """Record that it arrived."""
    await replay.first_use(transaction, _CAME, _value(name, state), expires_at=now + LIFETIME, now=now)


async def came(reader: Reader, name: str, state: str, *, now: int) -> bool:
    """Whether it arrived."""
    return await replay.is_seen(reader, _CAME, _value(name, state), now=now)


def _value(name: str, state: str) -> str:
    return f"{name}:{state}"
