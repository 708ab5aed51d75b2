"""Calls that the SDK has read: passes them from its context to `server.mcp.tools`, and returns progress."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final

from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND, CallToolRequestParams, ProgressNotification, ProgressNotificationParams
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from providers.tools.spec import Progress
from server.connecting.agent_refusals import plain
from server.deployment import Deployment
from server.mcp import tools
from server.mcp.elicitation import AskingOptions
from server.mcp.fast_path import PlainCall
from server.mcp.list_changes import ListChanges
from server.mcp.offer import tool_lookup
from server.mcp.offer.tool_list import LiveToolList, ToolList
from server.mcp.retry_later import ON_AWAY, STORAGE_AWAY
from server.mcp.sdk_server import (
    KNOWN,
    PRINCIPAL,
    SERVER_NAME,
    Answer,
    Backend,
    Context,
    OpenVault,
    TaskMethod,
    make_server,
)
from server.mcp.task_offer import TaskAnswer, TaskParams
from server.mcp.tasks import Tasks
from vault.records import Principal
from vault.refusals import VaultError
from vault.spans import request

ON_LIVE: ContextVar[Callable[[], None] | None] = ContextVar("on_live", default=None)
_STATE_LIFETIME: Final = 600.0  # seconds


def build_server(deployment: Deployment, *, transport: str) -> Server[dict[str, object]]:
    """The MCP server of an open vault; `transport` is the activity's name for the way of a call."""
    listed, opened = LiveToolList(deployment.live), open_vault(deployment, transport=transport)

    async def tool_list() -> ToolList:
        return listed.current

    async def vault() -> OpenVault:
        return opened

    async def choice() -> str | None:
        return await read_choice(deployment, current_principal())

    backing = Backend(tool_list, vault, lambda: current_principal().client_id, choice)
    return make_server(backing, website_url=deployment.public_url, has_tool=lambda name: listed.current.has(name))


def open_vault(deployment: Deployment, *, transport: str) -> OpenVault:
    """The parts of this vault that a server's calls need."""

    async def call_tool(context: Context, params: CallToolRequestParams) -> Answer:
        known = KNOWN.get()
        if isinstance(known, Exception):
            raise known
        if known is not None:
            return known
        wanted = tools.ToolRequest(
            principal=current_principal(),
            name=params.name,
            arguments=params.arguments or {},
            asking=AskingOptions.from_request(context, params),
            transport=transport,
            on_live=ON_LIVE.get(),
            on_away=ON_AWAY.get(),
        )
        with request(), deployment.drain.call():
            progress = _Progress(context, on_get_stream=transport == "http")
            return await tools.call(deployment, wanted, progress=progress)

    async def call_plain(call: PlainCall, progress: Progress) -> Answer:
        wanted = tools.ToolRequest(
            principal=current_principal(),
            name=call.name,
            arguments=call.arguments,
            asking=asking_of(call),
            transport=transport,
            trace=call.trace,
        )
        with request(), deployment.drain.call():
            return await tools.call(deployment, wanted, progress=progress)

    security = RequestStateSecurity(
        keys=[deployment.keys.subkey("request-state")], ttl=_STATE_LIFETIME, bind_principal=lambda _: _principal_name()
    )
    tasks = Tasks(deployment, transport)
    changes = ListChanges(deployment, whose=current_principal, is_listed_early=transport == "stdio")
    boundary = RequestStateBoundary(security, default_audience=SERVER_NAME)
    answers = {
        "tasks/get": _on_task(deployment, tasks.get),
        "tasks/update": _on_task(deployment, tasks.update),
        "tasks/cancel": _on_task(deployment, tasks.cancel),
    }
    return OpenVault(call_tool, call_plain, boundary, changes.follow_session, changes.listen, answers)


def asking_of(call: PlainCall) -> AskingOptions:
    """How the person behind a plain call can be asked."""
    return AskingOptions(
        opens_urls=call.opens_urls,
        fills_forms=call.fills_forms,
        is_modern=call.session is None,
        takes_tasks=call.takes_tasks,
    )


def _on_task(deployment: Deployment, answer: Callable[[Principal, str], Awaitable[TaskAnswer]]) -> TaskMethod:
    async def handle(context: Context, params: TaskParams) -> TaskAnswer:
        if context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            raise MCPError(code=METHOD_NOT_FOUND, message="Method not found", data=context.method)
        with request(), deployment.drain.call():
            try:
                return await answer(current_principal(), params.task_id)
            except VaultError as refused:
                raise MCPError(code=STORAGE_AWAY, message=plain(refused).text) from refused

    return handle


async def read_choice(deployment: Deployment, principal: Principal) -> str | None:
    """The set that the person chose for this agent. Raises MCPError while the storage is unavailable."""
    try:
        return await tool_lookup.choice_of(deployment, principal)
    except VaultError as refused:
        raise MCPError(code=STORAGE_AWAY, message=plain(refused).text) from refused


def current_principal() -> Principal:
    """The principal of the request that is being answered."""
    principal = PRINCIPAL.get()
    if principal is None:
        raise RuntimeError("a tool was reached without a principal")
    return principal


def _principal_name() -> str:
    principal = current_principal()
    return json.dumps([principal.tenant, principal.user_id, principal.client_id])


class _Progress:
    """Progress of one call, for the caller that asked for it.

    The SDK answers the POSTs of a handshake session with plain JSON, which has no room for notifications: they go out
    on the session's GET stream. A call that is answered here, without the SDK, reports progress in its own answer.
    """

    def __init__(self, context: Context, *, on_get_stream: bool) -> None:
        self._context = context
        self._on_get_stream = on_get_stream and context.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS

    async def __call__(self, done: int, total: int | None, message: str) -> None:
        if not self._on_get_stream:
            await self._context.session.report_progress(done, total, message)
            return
        token = (self._context.meta or {}).get("progress_token")
        if token is not None:
            params = ProgressNotificationParams(progress_token=token, progress=done, total=total, message=message)
            await self._context.session.send_notification(ProgressNotification(params=params))
