"""`notifications/tools/list_changed`: notify a connected agent that its person chose different tools for it.

Handshake sessions get it on their own stream, over HTTP, SSE, and stdio; clients of MCP 2026-07-28 subscribe with
`subscriptions/listen`. The choices of all listeners are read together every few seconds while there are listeners, so
that a change by any process or command is noticed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context as Variables
from dataclasses import dataclass, field
from typing import Final

from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import ListenHandler, ServerEvent, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_REQUEST,
    SubscriptionFilter,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from server.deployment import Deployment
from server.mcp.offer import tool_list, tool_lookup
from vault import tool_choices
from vault.records import Principal
from vault.refusals import VaultError

PAUSE: Final = 5.0  # seconds between checks
MOST: Final = 64  # listeners of one agent of a person; it may have half as many sessions
_TOO_MANY: Final = "This agent has too many subscriptions: close one, then listen again"
logger = logging.getLogger("token_vault.lists")

Owner = tuple[str, str]  # person, client
Context = ServerRequestContext[dict[str, object], object]
Tell = Callable[[], None]


@dataclass(slots=True)
class _Listeners:
    """The listeners of one agent, and the list that they know."""

    listed: Collection[str]
    tellers: list[Tell] = field(default_factory=list[Tell])

    def look(self, listed: Collection[str]) -> None:
        """Notify them if the list has changed."""
        if listed != self.listed:
            self.listed = listed
            for tell in self.tellers:
                tell()


class ListChanges:
    """Who listens, in this process and over one transport. `whose` returns the principal of the current request.

    `is_listed_early`: the list may have been answered before the vault was open, without the person's choice and what
    an administrator set up in the browser.
    """

    def __init__(
        self, deployment: Deployment, *, whose: Callable[[], Principal], is_listed_early: bool = False
    ) -> None:
        self._deployment = deployment
        self._whose = whose
        self._is_listed_early = is_listed_early
        self._of: dict[Owner, _Listeners] = {}
        self._looking: asyncio.Task[None] | None = None
        self._sessions: set[int] = set()

    async def follow_session(self, context: Context) -> None:
        """Handle `notifications/initialized`: tell the session of each change, for as long as it lives.

        The SDK runs this as a task of the session, and cancels it when the session ends.
        """
        opening = context.session.client_params
        if context.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS or id(opening) in self._sessions:
            return  # a client may say so twice
        changed = asyncio.Event()
        watching = await self._watch(changed.set)
        if watching is None:
            return
        self._sessions.add(id(opening))  # which lives as long as this does
        try:
            with watching:
                while True:
                    await changed.wait()
                    changed.clear()
                    await context.session.send_tool_list_changed()
        finally:
            self._sessions.discard(id(opening))

    async def listen(self, context: Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        """Handle `subscriptions/listen`: only the list of tools ever changes, and only for this agent.

        Raises MCPError for too many.
        """
        bus = _Bus()
        watching = await self._watch(bus.tell)
        if watching is None:
            raise MCPError(code=INVALID_REQUEST, message=_TOO_MANY)
        asked = SubscriptionFilter(tools_list_changed=params.notifications.tools_list_changed)
        with watching:
            return await ListenHandler(bus)(context, params.model_copy(update={"notifications": asked}))

    async def _watch(self, tell: Tell) -> AbstractContextManager[None] | None:
        """Call `tell` whenever the list of this principal's agent changes; None if too many listen."""
        principal = self._whose()
        chosen = await tool_lookup.choice_of(self._deployment, principal)
        owner = principal.user_id, principal.client_id
        listed = tool_list.names_for(self._deployment.offer, principal.client_id, chosen=chosen)
        watched = self._of.get(owner)
        if watched is None:
            known, offer = chosen, self._deployment.offer
            if self._is_listed_early:
                known, offer = None, self._deployment.live.initial.offer
            watched = _Listeners(tool_list.names_for(offer, principal.client_id, chosen=known))
        if len(watched.tellers) >= MOST:
            return None
        return self._listen_as(owner, watched, listed, tell)

    @contextmanager
    def _listen_as(self, owner: Owner, watched: _Listeners, listed: Collection[str], tell: Tell) -> Generator[None]:
        watched = self._of.setdefault(owner, watched)
        watched.tellers.append(tell)
        watched.look(listed)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), context=Variables())
        try:
            yield
        finally:
            watched.tellers.remove(tell)
            if not watched.tellers:
                self._of.pop(owner, None)
            if not self._of:
                self._looking.cancel()
                self._looking = None  # a listener may begin before the task has ended

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(PAUSE)
            asked = tuple(self._of)  # a listener that arrives during the read has read the list itself
            try:
                chosen = await tool_choices.of_users(self._deployment.database, frozenset(user for user, _ in asked))
            except VaultError as error:  # the storage is unavailable: nothing is known to have changed
                logger.warning("lists of tools cannot be checked", extra={"code": error.code})
                continue
            for owner in asked:
                if (watched := self._of.get(owner)) is not None:
                    listed = tool_list.names_for(self._deployment.offer, owner[1], chosen=chosen.get(owner))
                    watched.look(listed)


class _Bus:
    """The source of events for the SDK's handler of one stream."""

    def __init__(self) -> None:
        self._listener: Callable[[ServerEvent], None] | None = None
        self._is_due = False  # reported before the stream began

    async def publish(self, event: ServerEvent) -> None:
        """Not used here."""

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """The stream begins."""
        self._listener = listener
        if self._is_due:
            self.tell()
        return self._leave

    def _leave(self) -> None:
        self._listener = None

    def tell(self) -> None:
        """The list is another one."""
        self._is_due = self._listener is None
        if self._listener is not None:
            self._listener(ToolsListChanged())
