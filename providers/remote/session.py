"""One session with another MCP server, for one person: the official client over the vault's guarded HTTP client.

`UpstreamAPI` adds the token, only for the server's own address; no redirect is followed, and the server's requests to
its client (sampling, elicitation, roots) aren't answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

import httpx2
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    ListToolsRequest,
    ListToolsResult,
    PaginatedRequestParams,
)
from pydantic import ValidationError

from providers.api.api import (
    OpenProgram,
    RateLimited,
    ScopesMissing,
    TokenRejected,
    ToolRefused,
    UpstreamAPI,
    UpstreamRefused,
    UpstreamUnavailable,
)
from providers.api.retries import Wait, wait_of
from providers.api.text import as_data
from providers.definitions.remote import is_foreign_scope
from providers.outbound.messages import HttpError, NotReached, OutboundResponse
from providers.remote.tool_descriptions import MOST

if TYPE_CHECKING:
    from mcp.client.session import ClientSession

    from providers.outbound.sessions import StreamedAnswer

Answer = TypeVar("Answer")
_PAGES: Final = 20
_SENT: Final = re.compile(rb'"method"\s*:\s*"tools/call"')
_ID: Final = re.compile(rb'"id"\s*:')  # a notification has none
_PASSED: Final = re.compile(r"accept|content-type|mcp-[a-z0-9-]+")
_PARAMETER: Final = re.compile(r'([a-z_]+)\s*=\s*(?:"([^"\\]*)"|([^\s,"]+))', re.IGNORECASE)
_LONGEST_HEADER: Final = 4000
_NOTHING_DONE: Final = frozenset({INVALID_PARAMS, METHOD_NOT_FOUND})
_IDENTITY: Final = Implementation(name="token-vault", version="1")
logger = logging.getLogger("token_vault.remote")


def challenge(header: str) -> Mapping[str, str]:
    """The parameters of a `WWW-Authenticate` header for Bearer (RFC 6750 §3), by name."""
    if len(header) > _LONGEST_HEADER or not header.lower().startswith("bearer"):
        return {}
    return {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(header)}


@dataclass(slots=True)
class _WireState:
    """What happened on the wire, because the client library reports less."""

    trouble: ToolRefused | None = None  # status of the last request that has an answer
    is_calling: bool = False  # a tools/call may have reached the server
    cause: Exception | None = None  # our exception, which the client library would wrap or swallow


class _Transport(httpx2.AsyncBaseTransport):
    """The client library's requests, over the vault's HTTP client."""

    def __init__(self, api: UpstreamAPI, exchanged: _WireState) -> None:
        self._api = api
        self._exchanged = exchanged

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body, method = await request.aread(), request.method
        if method != "POST" and method != "DELETE":  # no stream of unsolicited messages
            return httpx2.Response(405, request=request)
        headers = {name: value for name, value in request.headers.items() if _PASSED.fullmatch(name)}
        is_call, is_answered = _SENT.search(body) is not None, method == "POST" and _ID.search(body) is not None
        was_calling = self._exchanged.is_calling
        self._exchanged.is_calling |= is_call  # also if waiting for it is cancelled
        stack = AsyncExitStack()
        try:
            answer = await self._api.open_remote(method, headers=headers, body=body, stack=stack)
        except HttpError as error:
            await stack.aclose()
            if isinstance(error, NotReached):
                self._exchanged.is_calling = was_calling
            if is_answered:
                self._note_cut(error.reason)
            return httpx2.Response(503, request=request)
        except BaseException as error:
            await stack.aclose()
            if isinstance(error, Exception) and was_calling:  # later requests must not hide the call's outcome
                detail = self._api.mask_secrets(str(getattr(error, "detail", "") or error))
                logger.warning(
                    "request after a call failed",
                    extra={"provider": self._api.title, "cause": type(error).__name__, "detail": detail},
                )
                return httpx2.Response(503, request=request)
            if isinstance(error, Exception):
                self._exchanged.cause = error
            raise
        if is_answered:
            self._exchanged.trouble = self._refusal(answer) if answer.status >= 300 else None
        shown = [(name, value) for name, value in answer.headers if name.lower() not in _HOP]
        return httpx2.Response(
            answer.status,
            headers=shown,
            stream=_RemoteBody(stack, answer, self._note_cut if is_answered else lambda reason: None),
            request=request,
        )

    def _note_cut(self, reason: str) -> None:
        self._exchanged.trouble = self._unavailable(reason, is_unknown=self._exchanged.is_calling)

    def _unavailable(self, reason: str, *, is_unknown: bool, wait: Wait | None = None) -> UpstreamUnavailable:
        when = "" if wait is None else f" in {wait.seconds} s"
        advice = (
            f"The call may have been carried out. Check before you try again{when}."
            if is_unknown
            else f"Try again{when or ' later'}."
        )
        return UpstreamUnavailable(f"{self._api.title}: {reason}. {advice}", unknown_outcome=is_unknown)

    def _refusal(self, answer: StreamedAnswer) -> ToolRefused | None:
        """The meaning of a status that the client library doesn't distinguish; None: its body may say more."""
        headers = {name.lower(): value for name, value in answer.headers}
        title = self._api.title
        if answer.status < 400:
            text = f"{title} redirects elsewhere, which isn't followed. An admin can add it again by its new address."
            return UpstreamRefused("redirected", text)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            return TokenRejected(f"{title} no longer accepts the account's token.")
        whole = OutboundResponse(answer.status, headers, b"")
        wait = wait_of(whole, "", now=self._api.now) if whole.is_turned_away else None
        if wait is not None and answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            text = f"{title} is rate limiting. Nothing was done; try again in {wait.seconds} s."
            return RateLimited(text, retry_after=wait.seconds)
        if answer.status >= 500:
            return self._unavailable(f"status {answer.status}", is_unknown=self._exchanged.is_calling, wait=wait)
        said = challenge(headers.get("www-authenticate", ""))
        if answer.status == HTTPStatus.FORBIDDEN and said.get("error") == "insufficient_scope":
            wanted = frozenset(one for one in said.get("scope", "").split() if is_foreign_scope(one))
            return ScopesMissing(f"{title} wants more permissions for this call. Nothing was done.", scopes=wanted)
        return None


_HOP: Final = frozenset({"content-length", "transfer-encoding", "content-encoding", "connection", "location"})


class _RemoteBody(httpx2.AsyncByteStream):
    """The body as it arrives; closing it ends the request."""

    def __init__(self, stack: AsyncExitStack, answer: StreamedAnswer, on_cut: Callable[[str], None]) -> None:
        self._stack = stack
        self._answer = answer
        self._on_cut = on_cut

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        try:
            async for chunk in self._answer.chunks():
                yield chunk
        except HttpError as error:
            self._on_cut(error.reason)
            raise httpx2.ReadError(error.reason) from error

    async def aclose(self) -> None:
        await self._stack.aclose()


@dataclass(slots=True)
class RemoteSession:
    """The requests that one tool call may send to the server."""

    _session: ClientSession
    _api: UpstreamAPI = field(repr=False)
    _wire: _WireState | None = None  # for a program's session, where nothing else sees the calls

    async def list_tools(self) -> Sequence[Mapping[str, object]]:
        """Every page of `tools/list`, unchanged; stops beyond the maximum number of tools."""
        found: list[Mapping[str, object]] = []
        cursor: str | None = None
        for _ in range(_PAGES):
            params = None if cursor is None else PaginatedRequestParams(cursor=cursor)
            page = await self._session.send_request(ListToolsRequest(params=params), ListToolsResult)
            found += [tool.model_dump(by_alias=True, mode="json", exclude_none=True) for tool in page.tools]
            cursor = page.next_cursor
            if cursor is None or len(found) > MOST:
                return found
        raise UpstreamRefused("too_large", f"The list of {self._api.title} has more than {_PAGES} pages.")

    async def call(self, name: str, arguments: Mapping[str, object]) -> CallToolResult:
        """The result of the call, even if it is an error."""
        params = CallToolRequestParams(name=name, arguments=dict(arguments))
        if self._wire is not None:
            self._wire.is_calling = True
        return await self._session.send_request(CallToolRequest(params=params), CallToolResult)


class RemoteSessions:
    """Opens sessions; remembers the protocol revision of each server."""

    def __init__(self) -> None:
        self._modes: dict[str, str] = {}

    async def run(self, api: UpstreamAPI, url: str, work: Callable[[RemoteSession], Awaitable[Answer]]) -> Answer:
        """Do this in one session. Raises ToolRefused, and what `work` and the renewal of the token raise."""
        exchanged = _WireState()
        if api.program is not None:
            return await self._run_program(api, api.program, work, exchanged)
        try:
            return await self._run(api, url, work, exchanged)
        except (ToolRefused, ExceptionGroup) as error:
            if exchanged.cause is not None:
                raise exchanged.cause from error
            raise

    async def _run_program(
        self,
        api: UpstreamAPI,
        program: OpenProgram,
        work: Callable[[RemoteSession], Awaitable[Answer]],
        exchanged: _WireState,
    ) -> Answer:
        """Do this in the session of a program that the vault runs."""
        from mcp.shared.exceptions import MCPError

        try:
            async with asyncio.timeout(api.time_left()), program() as session:
                return await work(RemoteSession(session, api, exchanged))
        except (MCPError, ValidationError, ToolRefused, TimeoutError) as error:
            raise _refusal_of(api, exchanged, error) from error

    async def _run(
        self,
        api: UpstreamAPI,
        url: str,
        work: Callable[[RemoteSession], Awaitable[Answer]],
        exchanged: _WireState,
    ) -> Answer:
        from mcp.client.client import Client
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared.exceptions import MCPError

        done: list[Answer] = []
        failure: Exception | None = None
        seconds = api.time_left()
        try:
            async with asyncio.timeout(seconds), httpx2.AsyncClient(transport=_Transport(api, exchanged)) as http:
                client = Client(
                    streamable_http_client(url, http_client=http),
                    mode=self._modes.get(url, "auto"),
                    cache=None,
                    client_info=_IDENTITY,
                    read_timeout_seconds=seconds,
                )
                async with client:
                    try:
                        done.append(await work(RemoteSession(client.session, api)))
                        self._modes[url] = client.protocol_version if _is_modern(client.protocol_version) else "legacy"
                    except (MCPError, ValidationError, ToolRefused) as error:
                        failure = error
                    except BaseException as error:
                        if isinstance(error, Exception):
                            exchanged.cause = error
                        raise
        except* (MCPError, ValidationError, ToolRefused, httpx2.HTTPError, TimeoutError) as group:
            failure = failure or _first(group)
        if done:
            return done[0]
        self._modes.pop(url, None)
        raise _refusal_of(api, exchanged, failure)


def _is_modern(version: str) -> bool:
    from mcp_types.version import MODERN_PROTOCOL_VERSIONS

    return version in MODERN_PROTOCOL_VERSIONS


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    found: Exception | BaseExceptionGroup[Exception] = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _refusal_of(api: UpstreamAPI, exchanged: _WireState, failure: Exception | None) -> ToolRefused:
    """The error for the caller."""
    from mcp.shared.exceptions import MCPError

    if exchanged.trouble is not None:
        return exchanged.trouble
    if isinstance(failure, ToolRefused):
        return failure
    if isinstance(failure, MCPError):
        said = as_data(api.mask_secrets(failure.error.message), limit=300).replace("\n", " ")
        is_certain = not exchanged.is_calling or failure.error.code in _NOTHING_DONE
        advice = "" if is_certain else " The call may have been carried out. Check before you try again."
        return UpstreamRefused("remote_error", f"{api.title} refused the call. It says: {json.dumps(said)}.{advice}")
    if isinstance(failure, TimeoutError):
        advice = "It may have been carried out. Check before you try again." if exchanged.is_calling else "Try again."
        text = f"{api.title} didn't answer in time. {advice}"
        return UpstreamUnavailable(text, unknown_outcome=exchanged.is_calling)
    advice = "The call may have been carried out." if exchanged.is_calling else "Nothing was done."
    return UpstreamUnavailable(
        f"{api.title} answered in a way that can't be understood. {advice}", unknown_outcome=exchanged.is_calling
    )
