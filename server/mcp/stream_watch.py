"""End the streams of disconnected agents, since a GET stream is only checked when it opens and then lasts for hours.

The grants of all open streams of a process, with their revoked tokens, are read together, every few seconds and only
while there are any.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import Context
from typing import Final

from server.deployment import Deployment
from vault import grants
from vault.records import Principal
from vault.refusals import VaultError

PAUSE: Final = 5.0  # seconds between checks
logger = logging.getLogger("token_vault.streams")


class StreamWatch:
    """The open streams of one process, by the grant and the access token that they depend on."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._of: dict[tuple[str, str], set[asyncio.Event]] = {}
        self._looking: asyncio.Task[None] | None = None

    @contextmanager
    def watch(self, principal: Principal) -> Generator[asyncio.Event]:
        """An event that is set within seconds after the principal's access token, grant, client, or user ends."""
        over = asyncio.Event()
        key = principal.grant_id, principal.token_id
        self._of.setdefault(key, set()).add(over)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), context=Context())  # of no one request
        try:
            yield over
        finally:
            mine = self._of.get(key, set())
            mine.discard(over)
            if not mine:
                self._of.pop(key, None)

    async def _look(self) -> None:
        while self._of:
            await asyncio.sleep(PAUSE)
            asked = frozenset(self._of)  # a stream that opens during the read is not among them
            try:
                live = await grants.live_among(self._deployment.database, asked)
            except VaultError as error:  # the storage is unavailable: that ends no permission
                logger.warning("streams cannot be checked", extra={"code": error.code})
                continue
            for key in asked - live:
                for over in self._of.get(key, ()):
                    over.set()
