"""The upkeep step that tells clients that their person has answered; it loads what it needs when one is due."""

from __future__ import annotations

from typing import Final

from server.deployment import Deployment
from server.lifecycle.upkeep_step import NOTICES_EVERY, UpkeepStep
from vault.approvals import client_notices


async def _tell_clients(deployment: Deployment) -> None:
    if await client_notices.is_due(deployment.database, now=deployment.now()):
        from server.oauth.backchannel.notifications import tell_clients

        await tell_clients(deployment)


STEP: Final = UpkeepStep("pings", NOTICES_EVERY, _tell_clients)
