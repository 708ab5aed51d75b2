"""The ladder: the best form of "please open this link" that the calling client speaks.

From the top: MCP 2026-07-28 `InputRequiredResult` with URL elicitation, error -32042 of 2025-11-25, and an error text
with the link and a device code for clients that can do neither. Who makes the link, and what the page behind it does,
is decided in `server.connect`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final, Literal

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ElicitRequest,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequiredResult,
    TextContent,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ConfigDict, ValidationError

from server.connect import ConnectLink

INPUT_KEY: Final = "connect"
META_KEY: Final = "io.github.mcp-token-vault/connect"


class _State(BaseModel):
    """What travels in `requestState`: the link that was offered. The SDK seals it and binds it to the caller."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    url: str
    device_url: str
    user_code: str
    message: str


@dataclass(frozen=True, slots=True)
class Asking:
    """How the person behind this call can be asked, and what was asked and answered before."""

    opens_urls: bool = False
    is_modern: bool = False
    offered: ConnectLink | None = None
    answer: Literal["accept", "decline", "cancel"] | None = None

    @classmethod
    def from_request(
        cls, context: ServerRequestContext[dict[str, object], object], params: CallToolRequestParams
    ) -> Asking:
        """Read the client's capabilities, the verified `requestState`, and the person's answer."""
        capabilities = context.session.client_capabilities
        elicitation = capabilities.elicitation if capabilities is not None else None
        response = (params.input_responses or {}).get(INPUT_KEY)
        return cls(
            opens_urls=elicitation is not None and elicitation.url is not None,
            is_modern=context.protocol_version in MODERN_PROTOCOL_VERSIONS,
            offered=_offered(params.request_state),
            answer=response.action if isinstance(response, ElicitResult) else None,
        )


def _offered(state: str | None) -> ConnectLink | None:
    if state is None:
        return None
    try:
        known = _State.model_validate_json(state)
    except ValidationError:
        return None
    return ConnectLink(url=known.url, device_url=known.device_url, user_code=known.user_code, message=known.message)


def offer(link: ConnectLink, asking: Asking) -> CallToolResult | InputRequiredResult:
    """Ask for the link to be opened. Raises UrlElicitationRequiredError (-32042), on handshake revisions only."""
    if not asking.opens_urls:
        return in_words(link)
    if asking.is_modern:
        state = _State(url=link.url, device_url=link.device_url, user_code=link.user_code, message=link.message)
        request = ElicitRequest(params=ElicitRequestURLParams(message=link.message, url=link.url))
        return InputRequiredResult(input_requests={INPUT_KEY: request}, request_state=state.model_dump_json())
    # MCP 2025-11-25: the id is required, opaque and unique; the link stays the only handle
    elicitation = ElicitRequestURLParams(message=link.message, url=link.url, elicitation_id=secrets.token_urlsafe(16))
    raise UrlElicitationRequiredError([elicitation], message=link.message)


def in_words(link: ConnectLink) -> CallToolResult:
    """The lowest rung: text that a model can pass on, with a code for a browser on another device."""
    elsewhere = f" and enter the code {link.user_code}" if link.user_code else ""
    text = (
        f"{link.message}\nAsk the person to open {link.url} and then call this tool again."
        f"\nWithout a browser here: open {link.device_url} on any device{elsewhere}."
    )
    meta = {META_KEY: {"url": link.url, "device_url": link.device_url, "user_code": link.user_code}}
    return CallToolResult(content=[TextContent(text=text)], is_error=True, _meta=meta)


def declined(link: ConnectLink) -> CallToolResult:
    """The person was asked and said no; say so, so that the model does not ask at once again."""
    text = f"{link.message} The person did not agree to open the link, so nothing was done."
    return CallToolResult(content=[TextContent(text=text)], is_error=True)
