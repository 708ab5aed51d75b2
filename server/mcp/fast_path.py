"""The most common message, read and answered in one step: a `tools/call` with a plain answer.

The SDK validates these messages and their results three times each, and passes those of a session from task to task,
which is a fifth to a half of the cost of a call. This module therefore reads every valid call, and answers as the SDK
would. The SDK handles every other message, valid or not, and every answer except a plain result. `server.mcp.tools`
runs the calls; `server.mcp.plain_answers` sends the answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Final, Literal

from mcp.server.streamable_http import check_accept_headers
from mcp.shared.inbound import decode_header_value
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    SERVER_INFO_META_KEY,
    CallToolResult,
    ClientCapabilities,
    Implementation,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError, to_json
from starlette.requests import Request

from server.mcp.task_offer import follows_tasks
from vault.classes.immutable import immutable

_METHOD: Final = b"tools/call"
_REVISION: Final = b"2026-07-28"
_ACCEPT: Final = b"accept"
_CONTENT_TYPE: Final = b"content-type"
_NAME: Final = b"mcp-name"
_SESSION: Final = b"mcp-session-id"
# Each must occur at most once: of two, the SDK uses one, and a proxy may have used the other.
_ONCE: Final = frozenset({_ACCEPT, _CONTENT_TYPE, _NAME, _SESSION, b"mcp-method", b"mcp-protocol-version"})
_JSON: Final = b"application/json"
_LONGEST_ACCEPT: Final = 200  # bytes; remembered values must be bounded, and longer ones aren't repeated in practice

Id = int | str
_Strict = Annotated[int, Field(strict=True)]


class _Meta(BaseModel):
    """`_meta` in revisions with a handshake. The SDK ignores other members, too."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    progress_token: _Strict | str | None = Field(default=None, alias="progressToken")
    traceparent: object = None  # W3C trace context
    tracestate: object = None


class _Envelope(_Meta):
    """`_meta` in revision 2026-07-28."""

    version: Literal["2026-07-28"] = Field(alias=PROTOCOL_VERSION_META_KEY)
    capabilities: ClientCapabilities = Field(alias=CLIENT_CAPABILITIES_META_KEY)
    client: Implementation | None = Field(default=None, alias=CLIENT_INFO_META_KEY)
    log_level: None = Field(
        default=None, alias=LOG_LEVEL_META_KEY
    )  # with a level, the client wants log notifications with the answer


class _Params(BaseModel):
    # forbids a person's answers and sealed state, which the SDK handles
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    arguments: dict[str, object] = Field(default_factory=dict[str, object], repr=False)


class _ModernParams(_Params):
    meta: _Envelope = Field(alias="_meta")


class _SessionParams(_Params):
    meta: _Meta = Field(default=_Meta(), alias="_meta")


class _DuplexMeta(_Meta):
    """`_meta` on a handshake connection over stdio or HTTP+SSE, where no header marks 2026-07-28."""

    envelope: object = Field(default=None, alias=PROTOCOL_VERSION_META_KEY)


class _DuplexParams(_Params):
    meta: _DuplexMeta = Field(default=_DuplexMeta(), alias="_meta")


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    jsonrpc: Literal["2.0"]
    id: _Strict | str
    method: Literal["tools/call"]


class _ModernMessage(_Message):
    params: _ModernParams


class _SessionMessage(_Message):
    params: _SessionParams


class _DuplexMessage(_Message):
    params: _DuplexParams


@immutable
class PlainCall:
    """A call that doesn't need the SDK, and whether its client can open a link, show a form, or follow a task."""

    id: Id
    name: str
    arguments: Mapping[str, object] = field(repr=False)
    opens_urls: bool
    fills_forms: bool
    takes_tasks: bool = False
    trace: Mapping[str, str] | None = None  # W3C trace context
    progress_token: Id | None = None
    session: str | None = None  # the id of a handshake session, empty if it has none; None for 2026-07-28


def read(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> PlainCall | None:
    """The call in revision 2026-07-28, if headers and body are valid; None leaves the request to the SDK."""
    found = _once(headers)
    if found is None or found.get(b"mcp-method") != _METHOD or found.get(b"mcp-protocol-version") != _REVISION:
        return None
    accepted = _judge(found.get(_ACCEPT, b""))
    if not accepted.json or not found.get(_CONTENT_TYPE, b"").lower().startswith(_JSON):
        return None
    try:
        message = _ModernMessage.model_validate_json(body)
    except ValidationError:
        return None
    params = message.params
    named = found.get(_NAME)
    if named is None or decode_header_value(named.decode("latin-1")) != params.name:
        return None
    return _call(message.id, params, params.meta, params.meta.capabilities, accepted)


def read_in_session(
    headers: Iterable[tuple[bytes, bytes]], body: bytes, capabilities: ClientCapabilities
) -> PlainCall | None:
    """The call in an initialized handshake session; None leaves the request to the SDK."""
    found = _once(headers)
    if found is None or found.get(_CONTENT_TYPE, b"").partition(b";")[0].strip() != _JSON:
        return None
    accepted, session = _judge(found.get(_ACCEPT, b"")), found.get(_SESSION)
    if not accepted.json or session is None:
        return None
    try:
        message = _SessionMessage.model_validate_json(body)
    except ValidationError:
        return None
    params = message.params
    return _call(message.id, params, params.meta, capabilities, accepted, session=session.decode("latin-1"))


def read_message(body: bytes, capabilities: ClientCapabilities | None) -> PlainCall | None:
    """The call in a message of a stream or pipe; None leaves it to the SDK.

    `capabilities`: those of an initialized handshake connection; None for 2026-07-28.
    """
    try:
        if capabilities is None:
            modern = _ModernMessage.model_validate_json(body)
            params = modern.params
            return _call(modern.id, params, params.meta, params.meta.capabilities, _ANYTHING)
        message = _DuplexMessage.model_validate_json(body)
    except ValidationError:
        return None
    meta = message.params.meta
    if "envelope" in meta.model_fields_set:
        return None
    return _call(message.id, message.params, meta, capabilities, _ANYTHING, session="")


@dataclass(frozen=True, slots=True)
class _MediaTypes:
    json: bool
    events: bool


_ANYTHING: Final = _MediaTypes(json=True, events=True)


def _once(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes] | None:
    """The relevant headers; None if one of them occurs twice, or if another header carries a parameter."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _ONCE:
            if name in found:
                return None
            found[name] = value
        elif name.startswith(b"mcp-param-"):
            return None
    return found


def _judge(accept: bytes) -> _MediaTypes:
    return _judge_short(accept) if len(accept) <= _LONGEST_ACCEPT else _MediaTypes(json=False, events=False)


@lru_cache(maxsize=256)
def _judge_short(accept: bytes) -> _MediaTypes:
    """The media types that the SDK takes from this Accept header."""
    return _MediaTypes(*check_accept_headers(Request({"type": "http", "headers": [(_ACCEPT, accept)]})))


def _call(
    identity: Id,
    params: _Params,
    meta: _Meta,
    capabilities: ClientCapabilities,
    accepted: _MediaTypes,
    *,
    session: str | None = None,
) -> PlainCall | None:
    if meta.progress_token is None:
        if "progress_token" in meta.model_fields_set:
            return None  # null isn't a token
    elif not accepted.events:
        return None  # progress would need a different channel from this answer
    elicitation = capabilities.elicitation
    return PlainCall(
        identity,
        params.name,
        params.arguments,
        opens_urls=elicitation is not None and elicitation.url is not None,
        fills_forms=elicitation is not None and (elicitation.form is not None or elicitation.url is None),
        takes_tasks=session is None and follows_tasks(capabilities.extensions),
        trace=trace_of(meta.traceparent, meta.tracestate),
        progress_token=meta.progress_token,
        session=session,
    )


def trace_of(parent: object, state: object) -> Mapping[str, str] | None:
    """The W3C trace context of a `_meta` for `vault.spans`; what isn't text counts as absent."""
    if not isinstance(parent, str):
        return None
    return {"traceparent": parent, "tracestate": state} if isinstance(state, str) else {"traceparent": parent}


def answer(
    call: PlainCall, result: CallToolResult, *, stamp: Mapping[str, object], is_event: bool = False
) -> bytes | None:
    """The JSON-RPC answer; None if the result has text that UTF-8 can't encode.

    Adds the server's identity to the result's `meta`. Events are all ASCII, since readers of streams split lines at
    more characters than JSON escapes.
    """
    if call.session is None:
        result.meta = {**(result.meta or {}), SERVER_INFO_META_KEY: stamp}
    else:
        result = result.model_copy(update={"result_type": None})  # sessions don't have this member
    shown = {"jsonrpc": "2.0", "id": call.id, "result": result}
    try:
        return to_json(shown, by_alias=True, exclude_none=True, ensure_ascii=is_event)
    except PydanticSerializationError:
        return None


def progress(call: PlainCall, done: int, total: int | None, message: str) -> bytes:
    """The notification, in ASCII."""
    reported: dict[str, object] = {"progressToken": call.progress_token, "progress": done}
    if total is not None:
        reported["total"] = total
    reported["message"] = message
    return to_json({"jsonrpc": "2.0", "method": "notifications/progress", "params": reported}, ensure_ascii=True)
