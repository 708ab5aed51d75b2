"""Ends the streams of agents that were cut off: a GET stream is checked when it opens, and then lives for hours.

The grants of all open streams of a process are read together, every few seconds and only while there are any.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from server.deployment import Deployment
from vault import grants
from vault.records import Principal
from vault.refusals import VaultError

PAUSE: Final = 5.0  # seconds from one look to the next
logger = logging.getLogger("token_vault.streams")


class StreamWatch:
    """The open streams of one process, by the grant that they live on."""

    def __init__(self, deployment: Deployment, *, pause: float = PAUSE) -> None:
        self._deployment = deployment
        self._pause = pause
        self._of: dict[str, set[asyncio.Event]] = {}
        self._looking: asyncio.Task[None] | None = None

    @contextmanager
    def watched(self, principal: Principal) -> Generator[asyncio.Event]:
        """An event that is set within seconds of the end of the principal's grant, client or person."""
        over = asyncio.Event()
        self._of.setdefault(principal.grant_id, set()).add(over)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            yield over
        finally:
            mine = self._of.get(principal.grant_id, set())
            mine.discard(over)
            if not mine:
                self._of.pop(principal.grant_id, None)

    async def _look(self) -> None:
        while self._of:
            await asyncio.sleep(self._pause)
            try:
                live = await grants.live_among(self._deployment.database, frozenset(self._of))
            except VaultError as error:  # the storage is away: nobody was cut off by that
                logger.warning("streams cannot be checked", extra={"code": error.code})
                continue
            for grant_id in self._of.keys() - live:
                for over in self._of[grant_id]:
                    over.set()
