"""The SDK's server around our tools, for every transport. It can list the tools before the vault is open.

`server.mcp.sdk_calls` makes the calls, which need an open vault; it isn't loaded here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    ListToolsResult,
    NotificationParams,
    PaginatedRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)

from providers.tools.spec import Progress
from server.mcp.fast_path import PlainCall
from server.mcp.offer.tool_list import ToolList
from server.mcp.task_offer import METHODS, TASKS, TaskAnswer, TaskOffered, TaskParams
from server.runtime.version import VERSION
from vault.records import Principal

Context = ServerRequestContext[dict[str, object], object]
Answer = CallToolResult | InputRequiredResult | TaskOffered
# The outcome of a call that was read without the SDK, if the SDK must format the answer.
Known = Answer | Exception | None
KNOWN: ContextVar[Known] = ContextVar("known", default=None)
# Equal in every process of a vault: sealed requestState names it as its audience.
SERVER_NAME: Final = "token-vault"
PRINCIPAL: ContextVar[Principal | None] = ContextVar("principal", default=None)
_INSTRUCTIONS: Final = (
    "These tools act on the person's own accounts. If an answer contains a link, give it to the person "
    "and call the tool again after they open it. `connections` lists connected accounts."
)


TaskMethod = Callable[[Context, TaskParams], Awaitable[TaskAnswer]]


@dataclass(frozen=True, slots=True)
class OpenVault:
    """The parts that calls need. `boundary` seals and opens the `requestState` of calls that ask the person.

    `follow` tells a session of each change of its list, for as long as it lives; `listen` does so for a subscription.
    """

    call: Callable[[Context, CallToolRequestParams], Awaitable[Answer]]
    call_plain: Callable[[PlainCall, Progress], Awaitable[Answer]]
    boundary: RequestStateBoundary
    follow: Callable[[Context], Awaitable[None]]
    listen: Callable[[Context, SubscriptionsListenRequestParams], Awaitable[SubscriptionsListenResult]]
    tasks: Mapping[str, TaskMethod]  # by their methods


@dataclass(frozen=True, slots=True)
class Backend:
    """The backend of a server. Over stdio, both may be ready after the client connects; `vault` then also sets the
    principal.

    `client_id`: of the client that asks for the list; `choice`: the tool set that its person chose, as far as that is
    known. Their exceptions become the answer.
    """

    tools: Callable[[], Awaitable[ToolList]]
    vault: Callable[[], Awaitable[OpenVault]]
    client_id: Callable[[], str]
    choice: Callable[[], Awaitable[str | None]]


def make_server(
    backing: Backend, *, website_url: str | None = None, has_tool: Callable[[str], bool] = lambda name: False
) -> Server[dict[str, object]]:
    """The MCP server of a vault. `has_tool`: of those that HTTP requests may name in their headers."""

    async def list_tools(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        return (await backing.tools()).of(backing.client_id(), chosen=await backing.choice())

    async def call_tool(context: Context, params: CallToolRequestParams) -> Answer:
        return await (await backing.vault()).call(context, params)

    async def follow(context: Context, params: NotificationParams) -> None:
        with suppress(MCPError):  # said to each request
            await (await backing.vault()).follow(context)

    async def listen(context: Context, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        return await (await backing.vault()).listen(context, params)

    async def on_task(context: Context, params: TaskParams) -> TaskAnswer:
        return await (await backing.vault()).tasks[context.method](context, params)

    async def open_state(ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.method != "tools/call":
            return await call_next(ctx)
        return await (await backing.vault()).boundary(ctx, call_next)

    def schema_of(name: str) -> Mapping[str, object] | None:
        # The SDK searches a called tool's schema for parameters that are sent in headers. None of ours are, and the
        # search costs each call 10 us.
        return {} if has_tool(name) else None

    server = _ListingServer(
        SERVER_NAME,
        version=VERSION,
        title="Token Vault",
        instructions=_INSTRUCTIONS,
        website_url=website_url,
        get_tool_input_schema=schema_of,
        on_list_tools=list_tools,
        on_subscriptions_listen=listen,
    )
    server.add_request_handler("tools/call", CallToolRequestParams, call_tool)  # whose answer can be a task
    server.extensions = {TASKS: {}}
    for method in METHODS:
        server.add_request_handler(method, TaskParams, on_task)
    server.add_notification_handler("notifications/initialized", NotificationParams, follow)
    server.middleware[:] = [open_state]  # in place of the SDK's tracing, which costs 20 us and has no exporter here
    return server


class _ListingServer(Server[dict[str, object]]):
    """The SDK's server, which announces in handshakes over every transport that the list of tools can change."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        """As there, with `listChanged` of tools."""
        said = notification_options or NotificationOptions(tools_changed=True)
        return super().create_initialization_options(said, experimental_capabilities, extensions)
