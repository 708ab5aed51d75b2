"""The upkeep step that renews registrations at other MCP servers; it loads what it needs when one is due."""

from __future__ import annotations

from typing import Final

from server.deployment import Deployment
from server.lifecycle.upkeep_step import UpkeepStep
from vault import registrations

_EVERY: Final = 600.0  # seconds


async def _renew_clients(deployment: Deployment) -> None:
    now = deployment.now()
    stored = await registrations.list_registrations(deployment.database)
    if due := [one for one in stored if one.renew_at is not None and now >= one.renew_at]:
        from server.remote.registration_renewal import renew_due

        await renew_due(deployment, due)


STEP: Final = UpkeepStep("client registrations", _EVERY, _renew_clients)
