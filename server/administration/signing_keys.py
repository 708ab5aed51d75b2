"""Rotation of the keys that the vault signs its own tokens with."""

from __future__ import annotations

from server.administration.actor import Actor
from vault.audit import audit
from vault.storage.database import Transaction


async def rotate(actor: Actor) -> str:
    """Publish a new signing key, which is used an hour later; returns its key ID."""
    deployment, now = actor.deployment, actor.deployment.now()

    async def record(transaction: Transaction, kid: str) -> None:
        await audit.append(transaction, actor.event("signing_key.rotated", kid=kid), now=now)

    async with actor.change():
        pass  # checked first, so that only an admin creates a key
    return await deployment.keys.signing.rotate(deployment.database, now=now, record=record)
