"""The most common message, read and answered in one step: a `tools/call` of MCP 2026-07-28 with a plain JSON answer.

The SDK validates such a message three times and its result three times, at a fifth of the cost of a call. This module
therefore reads a message in the form that clients use, and answers in the SDK's words. The SDK handles every other
message, good or bad, and every answer but a plain result. `server.mcp.tools` runs the calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

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

_METHOD: Final = "tools/call"
_REVISION: Final = "2026-07-28"
_NAME: Final = b"mcp-name"
# As the official SDKs write them; another spelling may mean the same, and the SDK judges it.
_HEADERS: Final[Mapping[bytes, bytes]] = {
    b"accept": b"application/json, text/event-stream",
    b"content-type": b"application/json",
    b"mcp-method": _METHOD.encode(),
    b"mcp-protocol-version": _REVISION.encode(),
}


class _Meta(BaseModel):
    model_config = ConfigDict(frozen=True)

    version: Literal["2026-07-28"] = Field(alias=PROTOCOL_VERSION_META_KEY)
    capabilities: ClientCapabilities = Field(alias=CLIENT_CAPABILITIES_META_KEY)
    client: Implementation | None = Field(default=None, alias=CLIENT_INFO_META_KEY)
    log_level: None = Field(default=None, alias=LOG_LEVEL_META_KEY)  # wants notifications with the answer
    progress_token: None = Field(default=None, alias="progressToken")  # the same


class _Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")  # no answer of a person, nothing sealed to open

    name: str
    arguments: dict[str, object] = Field(default_factory=dict[str, object])
    meta: _Meta = Field(alias="_meta")


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    jsonrpc: Literal["2.0"]
    id: Annotated[int, Field(strict=True)] | str
    method: Literal["tools/call"]
    params: _Params


@dataclass(frozen=True, slots=True)
class PlainCall:
    """A call that needs nothing from the SDK. Its client can open a link for the person, or show them a form."""

    id: int | str
    name: str
    arguments: Mapping[str, object] = field(repr=False)
    opens_urls: bool
    fills_forms: bool


def read(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> PlainCall | None:
    """The call, if headers and body have the form that this module knows; None leaves the request to the SDK."""
    named = b""
    found: set[bytes] = set()
    for name, value in headers:
        if name in found or name.startswith(b"mcp-param-") or value != _HEADERS.get(name, value):
            return None  # a proxy might go by a second one of the same name
        if name == _NAME:
            named = value
        if name == _NAME or name in _HEADERS:
            found.add(name)
    if len(found) != len(_HEADERS) + 1:
        return None
    try:
        message = _Message.model_validate_json(body)
    except ValidationError:
        return None
    params = message.params
    if named.startswith(b"=?") or params.name != named.decode("latin-1"):  # the first: a name in a header's other form
        return None
    elicitation = params.meta.capabilities.elicitation
    return PlainCall(
        message.id,
        params.name,
        params.arguments,
        opens_urls=elicitation is not None and elicitation.url is not None,
        fills_forms=elicitation is not None and (elicitation.form is not None or elicitation.url is None),
    )


def answer(call: PlainCall, result: CallToolResult, *, stamp: Mapping[str, object]) -> bytes | None:
    """The JSON-RPC answer; None if the result holds text that UTF-8 cannot encode."""
    stamped = result.model_copy(update={"meta": {**(result.meta or {}), SERVER_INFO_META_KEY: stamp}})
    try:
        return to_json({"jsonrpc": "2.0", "id": call.id, "result": stamped}, by_alias=True, exclude_none=True)
    except PydanticSerializationError:
        return None
