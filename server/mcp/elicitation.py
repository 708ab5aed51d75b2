"""The ladder: the best form of "please open this link" that the calling client supports.

From the top: `InputRequiredResult` with URL elicitation (MCP 2026-07-28), error -32042 (2025-11-25), and an error text
with the link and a device code for clients that support neither, or that claimed to but didn't.
`server.connecting.links` creates the link and defines what its page does. Clients that support tasks get a question
about a call as a task after they have opened the link, or if they can't open links.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequiredResult,
    TextContent,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.connecting.links import ConnectLink
from server.mcp.task_offer import TaskOffered, follows_tasks, instant
from vault.classes.immutable import immutable

INPUT_KEY: Final = "connect"
ACCOUNT_KEY: Final = "account"
ACCESS_KEY: Final = "access_request"
META_KEY: Final = "io.github.mcp-token-vault/connect"


class _RequestState(BaseModel):
    """The content of `requestState`: the link that was offered, and the account that was chosen before.

    The SDK seals it and binds it to the caller.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    url: str = Field(default="", repr=False)
    device_url: str = ""
    user_code: str = Field(default="", repr=False)
    message: str = ""
    account: str | None = None


@immutable
class AskingOptions:
    """How the person behind this call can be asked, and the earlier questions and answers."""

    opens_urls: bool = False
    fills_forms: bool = False
    is_modern: bool = False
    takes_tasks: bool = False
    offered: ConnectLink | None = None
    answer: Literal["accept", "decline", "cancel"] | None = None
    account: str | None = None  # the one the person chose when asked
    leaves_account: bool = False  # the person was asked and declined to choose
    cancels_account: bool = False  # the question was dismissed, perhaps before anyone saw it
    access: Mapping[str, object] | None = None  # what the person filled in for a request to their group
    leaves_access: bool = False  # the person declined to fill it in
    cancels_access: bool = False

    @classmethod
    def from_request(
        cls, context: ServerRequestContext[dict[str, object], object], params: CallToolRequestParams
    ) -> AskingOptions:
        """Read the client's capabilities, the verified `requestState`, and the person's answer."""
        capabilities = context.session.client_capabilities
        elicitation = capabilities.elicitation if capabilities is not None else None
        answers = params.input_responses or {}
        response, choice = answers.get(INPUT_KEY), answers.get(ACCOUNT_KEY)
        asked = answers.get(ACCESS_KEY)
        filled = asked if isinstance(asked, ElicitResult) else None
        state = _state(params.request_state)
        chosen = choice.content.get(ACCOUNT_KEY) if isinstance(choice, ElicitResult) and choice.content else None
        is_modern = context.protocol_version in MODERN_PROTOCOL_VERSIONS
        return cls(
            opens_urls=elicitation is not None and elicitation.url is not None,
            fills_forms=elicitation is not None and (elicitation.form is not None or elicitation.url is None),
            is_modern=is_modern,
            takes_tasks=is_modern and capabilities is not None and follows_tasks(capabilities.extensions),
            offered=_offered_link(state),
            answer=response.action if isinstance(response, ElicitResult) else None,
            account=chosen if isinstance(chosen, str) else state.account,
            leaves_account=isinstance(choice, ElicitResult) and choice.action == "decline",
            cancels_account=isinstance(choice, ElicitResult) and choice.action == "cancel",
            access=filled.content or {} if filled is not None and filled.action == "accept" else None,
            leaves_access=filled is not None and filled.action == "decline",
            cancels_access=filled is not None and filled.action == "cancel",
        )


def is_task_due(asking: AskingOptions) -> bool:
    """Whether a call that needs approval becomes a task now. A client that can open links gets a link first."""
    return asking.takes_tasks and (asking.offered is not None or not asking.opens_urls)


def in_task(link: ConnectLink, *, task_id: str, created_at: int) -> TaskOffered:
    """A task for the question behind this link; perhaps the person hasn't seen it yet."""
    told = f"{link.message} Ask the person to open {link.url}"
    at = instant(created_at)
    return TaskOffered(task_id=task_id, status_message=told, created_at=at, last_updated_at=at)


def _state(sealed: str | None) -> _RequestState:
    if sealed is None:
        return _RequestState()
    try:
        return _RequestState.model_validate_json(sealed)
    except ValidationError:
        return _RequestState()


def _offered_link(known: _RequestState) -> ConnectLink | None:
    if not known.url:
        return None
    return ConnectLink(url=known.url, device_url=known.device_url, user_code=known.user_code, message=known.message)


def offer(
    link: ConnectLink, asking: AskingOptions, *, was_ignored: bool = False
) -> CallToolResult | InputRequiredResult:
    """Ask the person to open the link. Raises UrlElicitationRequiredError (-32042), on handshake revisions only.

    Asks with text if the client can't open links, if it dismissed the question (clients without a terminal send
    `cancel` by themselves), or if the last link that it got for the same request `was_ignored`.
    """
    if not asking.opens_urls or asking.answer == "cancel" or was_ignored:
        return in_words(link)
    if asking.is_modern:
        state = _RequestState(
            url=link.url,
            device_url=link.device_url,
            user_code=link.user_code,
            message=link.message,
            account=asking.account,
        )
        request = ElicitRequest(params=ElicitRequestURLParams(message=link.message, url=link.url))
        return InputRequiredResult(input_requests={INPUT_KEY: request}, request_state=state.model_dump_json())
    # MCP 2025-11-25: the id is required, opaque and unique; the link stays the only handle
    elicitation = ElicitRequestURLParams(message=link.message, url=link.url, elicitation_id=secrets.token_urlsafe(16))
    # Several clients show their model only the message of an error.
    raise UrlElicitationRequiredError([elicitation], message=_words(link))


def which_account(question: str, accounts: Sequence[str], asking: AskingOptions) -> InputRequiredResult | None:
    """Ask the person which account is meant; None if that can't be asked, or was already asked.

    A handshake revision would need the answer during the call, within its time limit, so the refusal names the accounts
    instead.
    """
    is_asked_already = asking.account is not None or asking.cancels_account
    if not (asking.is_modern and asking.fills_forms) or is_asked_already or len(accounts) < 2:
        return None
    choice = {"type": "string", "title": "Account", "enum": list(accounts)}
    schema = {"type": "object", "properties": {ACCOUNT_KEY: choice}, "required": [ACCOUNT_KEY]}
    request = ElicitRequest(params=ElicitRequestFormParams(message=question, requested_schema=schema))
    return InputRequiredResult(input_requests={ACCOUNT_KEY: request}, request_state=_RequestState().model_dump_json())


def state_of(asking: AskingOptions) -> str:
    """The state for a form without a link: the account that was chosen before."""
    return _RequestState(account=asking.account).model_dump_json()


def in_words(link: ConnectLink) -> CallToolResult:
    """The last resort: text that a model can pass on, with a code for a browser on another device."""
    meta = {META_KEY: {"url": link.url, "device_url": link.device_url, "user_code": link.user_code}}
    return CallToolResult(content=[TextContent(text=_words(link))], is_error=True, _meta=meta)


def _words(link: ConnectLink) -> str:
    elsewhere = f" and enter the code {link.user_code}" if link.user_code else ""
    return (
        f"{link.message}\nAsk the person to open {link.url} and then call this tool again.\nWithout a "
        f"browser here: open {link.device_url} on any device{elsewhere}."
    )


def refusal_of_person(link: ConnectLink) -> CallToolResult:
    """Report that the person was asked and refused, so that the model doesn't ask again immediately."""
    text = f"{link.message} The person declined to open the link, so nothing was done."
    return CallToolResult(content=[TextContent(text=text)], is_error=True)
