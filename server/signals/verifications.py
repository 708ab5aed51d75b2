"""Verification events that this vault asked for (SSF 1.0 §8.1.4): which state one must have, and whether it came."""

from __future__ import annotations

from typing import Final

from server.deployment import Deployment
from vault import replay
from vault.storage.database import Reader, Transaction

LIFETIME: Final = 86_400  # seconds in which it may come
_ASKED: Final = "ssf-asked"
_CAME: Final = "ssf-came"


async def expect(deployment: Deployment, name: str, state: str) -> None:
    """Remember that an event with this state may come."""
    now = deployment.now()
    async with deployment.transaction() as transaction:
        await replay.first_use(transaction, _ASKED, _value(name, state), expires_at=now + LIFETIME, now=now)


async def is_expected(reader: Reader, name: str, state: str, *, now: int) -> bool:
    """Whether this vault asked that transmitter for it."""
    return await replay.is_seen(reader, _ASKED, _value(name, state), now=now)


async def note(transaction: Transaction, name: str, state: str, *, now: int) -> None:
    """It came."""
    await replay.first_use(transaction, _CAME, _value(name, state), expires_at=now + LIFETIME, now=now)


async def came(reader: Reader, name: str, state: str, *, now: int) -> bool:
    """Whether it came."""
    return await replay.is_seen(reader, _CAME, _value(name, state), now=now)


def _value(name: str, state: str) -> str:
    return f"{name}:{state}"
