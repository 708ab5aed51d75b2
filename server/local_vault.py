"""A data directory's vault, opened in this process for the owner's local agent, with the pages that the owner needs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from server.app import build_late_app, open_deployment
from server.deployment import Deployment
from server.lifecycle.loopback import Companion, Holder, address_of
from server.lifecycle.maintenance import upkeep
from server.mcp.local_owner import local_principal
from server.oauth.backchannel import notification_step
from server.portal import notice_delivery
from server.remote import renewal_step
from server.settings import Settings
from vault.records import Principal


@dataclass(frozen=True, slots=True)
class LocalVault:
    """An open vault, and its owner's agent."""

    deployment: Deployment
    principal: Principal
    companion: Companion

    async def check_pages(self, logger: logging.Logger) -> None:
        """Warn if another program has taken the address of the pages; no links are sent in that case."""
        if await self.companion.first_look() is Holder.FOREIGN:
            logger.warning("no links are sent until this is fixed", extra={"cause": await self.companion.trouble()})


@asynccontextmanager
async def open_local_vault(
    settings: Settings,
    *,
    data: Path,
    open_browser: Callable[[str], bool] | None,
    client_name: str,
    role: str,
    greet: Callable[[Deployment], None] = lambda _: None,
) -> AsyncGenerator[LocalVault]:
    """Open the vault, maintain it, and serve its pages while the block runs. Raises the same as opening a
    deployment."""
    async with (
        open_deployment(
            settings, data=data, open_browser=open_browser, is_measured=settings.telemetry.otlp_endpoint is not None
        ) as deployment,
        upkeep(deployment, role=role, further=(notice_delivery.STEP, notification_step.STEP, renewal_step.STEP)),
    ):
        greet(deployment)
        principal = await local_principal(deployment, client_name)
        companion = Companion(build_late_app(deployment), address_of(deployment))
        deployment.pages.watch(companion.trouble)  # no links are sent while another program would receive them
        watching = asyncio.create_task(companion.run())
        try:
            yield LocalVault(deployment, principal, companion)
        finally:
            watching.cancel()
            await asyncio.gather(watching, deployment.drain.finish(), return_exceptions=True)
