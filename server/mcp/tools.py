"""Calls tools: parses arguments, exchanges the token, calls the provider, records the activity, and explains errors.

All transports use it. The tools are data from `providers.tools.spec`; the only exception, `connections`, reads the
vault instead of a provider. `server.mcp.elicitation` chooses how a missing connection is offered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, InputRequiredResult
from pydantic import BaseModel, ValidationError

from providers.api.api import (
    Authority,
    OpenProgram,
    RateLimited,
    ScopesMissing,
    ToolRefused,
    UpstreamAPI,
    UpstreamRefused,
    WrittenState,
)
from providers.api.rules import authority
from providers.definitions.model import Provider
from providers.tools.spec import Progress, ToolSpec
from server.connecting import approvals
from server.connecting.agent_refusals import AgentRefusal, plain, tell
from server.connecting.links import ConnectLink, has_unused_link
from server.deployment import Deployment, MissingPart, ToolCaller
from server.errors import STORAGE_RETRY, PagesElsewhere, failure_label
from server.mcp import access_requests, elicitation
from server.mcp.elicitation import AskingOptions
from server.mcp.offer import connections_tool, discovery, tool_lookup
from server.mcp.offer.connections_spec import SPEC as CONNECTIONS
from server.mcp.offer.discovery import CallToolInput, FindToolsInput
from server.mcp.partial_results import missing_part_note, stop_text
from server.mcp.retry_later import STORAGE_AWAY
from server.mcp.task_offer import TaskOffered
from server.mcp.tool_answers import count_items, failure, misfit, success
from server.runtime.rate_limits import agent_place
from server.sign_in.password import owner_link
from vault import tickets
from vault.approvals.approvals import ToolCall
from vault.classes.immutable import immutable
from vault.exchange.exchange import ExchangeRequest, UpstreamToken, exchange
from vault.records import Event, Narrowing, Principal, TicketPurpose, format_scope
from vault.refusals import (
    AccountRequired,
    ApprovalRequired,
    ConnectionRequired,
    DelegationRequired,
    StorageBusy,
    StorageUnavailable,
    VaultError,
)
from vault.spans import REQUEST_ID, new_request_id, span

DEADLINE: Final = 14.5  # seconds for a whole call, so that the answer is sent within 15
_ToGrant = ConnectionRequired | DelegationRequired | ApprovalRequired
logger = logging.getLogger("token_vault.tools")


@immutable
class ToolRequest:
    """One `tools/call` as it arrived: who calls what, and how their person can be asked."""

    principal: Principal
    name: str
    arguments: Mapping[str, object] = field(repr=False)
    asking: AskingOptions
    transport: str  # http | sse | stdio
    on_live: Callable[[], None] | None = None  # called when the exchange found the grant alive
    on_away: Callable[[int], None] | None = None  # called if storage is unavailable and the status can still report it
    trace: Mapping[str, str] | None = None  # W3C trace context of the caller


@immutable
class _Outcome:
    """What goes to the client, and what the activity records."""

    result: CallToolResult | InputRequiredResult | TaskOffered | MCPError = field(repr=False)
    outcome: str = "ok"  # ok | refused | failed
    code: str | None = None


@dataclass(slots=True)
class _RunningCall:
    """A call in progress, with the data that is recorded when it ends."""

    started: float
    held: _CallToken | None = None
    items: int | None = None  # number of results, if the tool answered with a list

    @property
    def token(self) -> UpstreamToken | None:
        return None if self.held is None else self.held.token

    @property
    def has_written(self) -> bool:
        """Whether a request of this call changed something, or may have."""
        return self.held is not None and self.held.has_written

    @property
    def seconds_left(self) -> float:
        return self.started + DEADLINE - time.monotonic()


def find(deployment: Deployment, name: str, *, client_id: str) -> ToolSpec | None:
    """The tool with that name, if this client has it; the discovery tools if its list is too long."""
    if (found := deployment.tool(name, client_id=client_id)) is not None:
        return found
    if name == CONNECTIONS.name:
        return CONNECTIONS
    found = next((spec for spec in discovery.DISCOVERY if spec.name == name), None)
    if found is None:
        return None
    return found if deployment.offer.is_long(client_id, deployment.offer.names_for(client_id)) else None


def _resolve(deployment: Deployment, request: ToolRequest, spec: ToolSpec) -> tuple[ToolRequest, ToolSpec]:
    """The call that a `call_tool` represents; other calls, and those that name no tool, unchanged."""
    if spec is not discovery.CALL:
        return request, spec
    try:
        wanted = CallToolInput.model_validate(request.arguments)
    except ValidationError:
        return request, spec
    found = find(deployment, wanted.name, client_id=request.principal.client_id)
    if found is None or found in discovery.DISCOVERY:
        return request, spec
    return replace(request, name=found.name, arguments=wanted.arguments), found


async def call(
    deployment: Deployment, request: ToolRequest, *, progress: Progress
) -> CallToolResult | InputRequiredResult | TaskOffered:
    """Answer one `tools/call` within 15 s. Raises MCPError for an unknown tool and for -32042 only.

    The outermost handler of a tool: every failure becomes an answer here, without internal details.
    """
    spec = find(deployment, request.name, client_id=request.principal.client_id)
    if spec is None:
        raise MCPError(code=INVALID_PARAMS, message="Unknown tool: call tools/list to see the available tools")
    request, spec = _resolve(deployment, request, spec)
    running = _RunningCall(time.monotonic())
    with span("execute_tool", parent=request.trace, tool=spec.name, transport=request.transport) as shown:
        try:
            async with asyncio.timeout(DEADLINE):
                outcome = await _answer(deployment, request, spec, progress, running)
        except asyncio.CancelledError:  # nobody gets an answer, but the provider may have carried out the call
            _record(deployment, request, spec, running, outcome="failed", code="interrupted")
            raise
        except Exception as error:  # noqa: BLE001 -- each kind has its words
            if isinstance(error, VaultError) and running.has_written:
                told = await stop_text(deployment, request.principal, error, spec=spec, seconds=running.seconds_left)
                outcome = _Outcome(failure(told), "failed", error.code)
            else:
                outcome = _failure(request, spec, error)
        if outcome.code is not None:
            shown.note(error=failure_label(outcome.code) if outcome.outcome == "failed" else outcome.code)
    if running.held is not None and request.on_live is not None:
        request.on_live()
    _record(deployment, request, spec, running, outcome=outcome.outcome, code=outcome.code)
    if isinstance(outcome.result, MCPError):
        raise outcome.result
    return outcome.result


def _failure(request: ToolRequest, spec: ToolSpec, error: Exception) -> _Outcome:
    """The outcome of a call that did not complete."""
    match error:
        case ToolRefused():
            return _Outcome(failure(error.description), "failed", error.code)
        case VaultError():
            return _refusal(request, spec, plain(error))
        case TimeoutError():
            text = f"{spec.title} didn't finish in time. {_unknown_outcome(spec)}"
            return _Outcome(failure(text), "failed", "timeout")
        case _:  # the log gets the cause, and the caller an ID to quote
            identity = REQUEST_ID.get() or new_request_id()
            logger.error("tool failed", extra={"tool": spec.name, "request_id": identity}, exc_info=error)
            text = f"{spec.title} failed inside the vault. The operator can find the cause in the log under {identity}."
            return _Outcome(failure(text), "failed", "internal_error")


def _refusal(request: ToolRequest, spec: ToolSpec, told: AgentRefusal) -> _Outcome:
    """A vault refusal over MCP, in the form that the table gives it."""
    refused, form = told.refusal, told.wording.form
    if form == "account" and isinstance(refused, AccountRequired):
        asked = elicitation.which_account(refused.description, refused.accounts, request.asking)
        return _Outcome(asked or failure(told.text), "refused", told.code)
    logger.info("tool refused", extra={"tool": spec.name, "code": told.code, "detail": told.detail})
    if form == "away" and request.on_away is not None:
        # The storage did not answer, so nothing was sent to a provider, and nothing is recorded.
        seconds = told.retry_after or STORAGE_RETRY
        request.on_away(seconds)
        if request.on_live is not None:
            request.on_live()  # the grant could not be read
        error = MCPError(code=STORAGE_AWAY, message=told.text, data={"retry_after": seconds})
        return _Outcome(error, "refused", told.code)
    return _Outcome(failure(told.text), "refused", told.code)


def _unknown_outcome(spec: ToolSpec) -> str:
    if spec.read_only:
        return "Nothing was changed; try again."
    return "It may have been done. Check before you try again."


async def _answer(
    deployment: Deployment, request: ToolRequest, spec: ToolSpec, progress: Progress, running: _RunningCall
) -> _Outcome:
    """Exchange and call; retries if the person is currently acting on the link from this retry."""
    started = running.started
    if (hidden := tool_lookup.refusal_of_operator(deployment, spec, client_id=request.principal.client_id)) is not None:
        _count(deployment, request, now=started)
        raise hidden
    try:
        arguments = spec.input.model_validate(request.arguments)
    except ValidationError as error:
        _count(deployment, request, now=started)
        return _Outcome(failure(misfit(spec, error)), "refused", "invalid_arguments")
    if spec.provider is None:
        _count(deployment, request, now=started)
        return await _look(deployment, request.principal, spec, arguments)
    if (declined := _refusal_of_person(request.asking)) is not None:
        return declined
    _check_budget(deployment.budgets.wait(request.principal.user_id, spec.provider, now=started))
    wanted = ExchangeRequest(
        principal=request.principal,
        provider=spec.provider,
        scopes=spec.scopes,
        account=_account(arguments) or request.asking.account,
        purpose=spec.name,
        call=_tool_call(spec, arguments),
        tool_sets=deployment.offer.with_tool(spec.name),
        is_kept=True,
    )
    is_last = False
    while True:
        try:
            token = await deployment.tokens.exchange(wanted, vault=deployment.vault, now=deployment.now())
            running.held = held = _CallToken(deployment, wanted, token, spec)
            # Only now, so that an agent without permission does not use up the budget of those with it.
            spent = deployment.budgets.spend(wanted.principal.user_id, wanted.provider, now=time.monotonic())
            _check_budget(spent)
            output = await spec.call(held.api(), arguments, progress)
            running.items = count_items(output)
            seconds = running.seconds_left
            note = await missing_part_note(deployment, request.principal, held.left_out, spec=spec, seconds=seconds)
            return _Outcome(success(output, held.token, note=note))
        except (ConnectionRequired, DelegationRequired, ApprovalRequired, ScopesMissing, UpstreamRefused) as refused:
            # A call that wrote must not be repeated, here or after the person allowed something.
            if running.has_written or (missing := _to_grant(refused, spec, running.held)) is None:
                raise
            if is_last or not await _is_answered(deployment, request):
                _count(deployment, request, now=started)
                return await _ask(deployment, request, spec, missing, wanted=wanted)
            is_last = True
        except (StorageUnavailable, StorageBusy):  # not caused by the agent
            raise
        except VaultError:
            if running.has_written:
                raise
            _count(deployment, request, now=started)
            raise


def _to_grant(
    refused: _ToGrant | ScopesMissing | UpstreamRefused, spec: ToolSpec, held: _CallToken | None
) -> _ToGrant | None:
    """The permission that the person needs to grant; None if it can't be granted. Drops the traceback, which would keep
    frames alive.

    If part of a program lacked a permission, that is the cause. If the provider requires more than the account has, the
    refusal is the same as for an account without those permissions.
    """
    if isinstance(refused, UpstreamRefused):
        return held.left_out.refusal if held and held.left_out and held.left_out.may_repeat else None
    if not isinstance(refused, ScopesMissing):
        return refused.with_traceback(None)
    if held is None or not (missing := held.grantable(refused.scopes)):
        return None
    return ConnectionRequired(
        f"The {spec.provider} account {held.token.label} hasn't granted {format_scope(missing)}. Reconnect it and "
        "allow that.",
        provider=spec.provider or "",
        reason="scopes",
        scopes=spec.scopes | missing,
        connection_id=held.token.connection_id,
        missing=missing,
    )


def _tool_call(spec: ToolSpec, arguments: BaseModel) -> ToolCall:
    """The call for a question to the person, and the target of a standing approval for it."""
    plain_arguments = partial(arguments.model_dump, mode="json")
    return ToolCall(spec.name, plain_arguments, target=lambda: spec.presentation.target_of(plain_arguments()))


async def _look(deployment: Deployment, principal: Principal, spec: ToolSpec, arguments: BaseModel) -> _Outcome:
    """A tool that the vault answers itself."""
    if spec is CONNECTIONS:
        return _Outcome(success(await connections_tool.look(deployment, principal, arguments), None))
    await connections_tool.check_live(deployment, principal)
    if isinstance(arguments, FindToolsInput):
        return _Outcome(success(await tool_lookup.find(deployment, principal, arguments), None))
    # The remaining calls name a tool: one to describe, or one that `call_tool` can't call.
    name: object = getattr(arguments, "name", "")
    found = find(deployment, str(name), client_id=principal.client_id)
    if found is None or spec is discovery.CALL:
        names = await tool_lookup.available(deployment, principal)
        return _Outcome(failure(discovery.unknown(str(name), names)), "refused", "unknown_tool")
    return _Outcome(success(await tool_lookup.describe(deployment, principal, found), None))


def _refusal_of_person(asking: AskingOptions) -> _Outcome | None:
    """The outcome if the person was asked before and refused. A `cancel` isn't a refusal: perhaps nobody was asked."""
    if asking.offered is not None and asking.answer == "decline":
        return _Outcome(elicitation.refusal_of_person(asking.offered), "refused", "declined")
    if asking.leaves_account:
        return _Outcome(failure("The person didn't choose an account, so nothing was done."), "refused", "declined")
    return None


def _check_budget(wait: int) -> None:
    """Raises RateLimited with the seconds to wait, if any."""
    if wait:
        text = f"This person's agents called this provider too often. Nothing was done; try again in {wait} s."
        raise RateLimited(text, retry_after=wait)


async def _is_answered(deployment: Deployment, request: ToolRequest) -> bool:
    """Whether the person is currently acting on the link from this retry."""
    offered = request.asking.offered
    if offered is None or request.asking.answer == "cancel":
        return False
    if approvals.is_approval(offered):
        return await approvals.wait_for_decision(deployment, offered)
    return await connections_tool.wait_for_change(deployment, request.principal)


def _account(arguments: BaseModel) -> str | None:
    value: object = getattr(arguments, "account", None)
    return value if isinstance(value, str) else None


class _CallToken:
    """The token of one call; a token that the provider rejects is renewed, for the refused request."""

    def __init__(self, deployment: Deployment, wanted: ExchangeRequest, token: UpstreamToken, spec: ToolSpec) -> None:
        self.token = token
        self._spec = spec
        self._deployment = deployment
        self._wanted = wanted
        self.left_out: MissingPart | None = None
        self._written = WrittenState()  # kept here: an API that is kept would form a cycle with `_renew`

    @property
    def has_written(self) -> bool:
        return self._written.has_written

    def _leave_out(self, missing: MissingPart) -> None:
        self.left_out = missing

    def api(self) -> UpstreamAPI:
        deployment = self._deployment
        provider = deployment.catalog.provider(self._wanted.provider)
        held = self._authority(provider)
        return UpstreamAPI(
            provider,
            deployment.http,
            token=held.token,
            entered=self.token.entered,
            scopes=held.scopes,
            account=self.token.account,
            connection_id=self.token.connection_id,
            granted=held.granted,
            renew=self._renew,
            now=deployment.now(),
            program=self._program(),
            written=self._written,
        )

    def _program(self) -> OpenProgram | None:
        """The session of an MCP server that the vault runs for this person and agent."""
        hosted, server = self._deployment.hosted, self._deployment.catalog.remote.get(self._wanted.provider)
        if hosted is None or server is None or server.program is None:
            return None
        token, spec = self.token, self._spec
        return hosted.open(
            self._deployment,
            ToolCaller(
                self._wanted.principal,
                token.connection_id,
                account=token.label,
                server=server.name,
                title=server.title,
                tool=spec.name,
                only_reads=spec.read_only,
                leave_out=self._leave_out,
            ),
            server.program,
        )

    def grantable(self, scopes: frozenset[str]) -> frozenset[str]:
        """The scopes that the account lacks and that the provider was known to have when it was set up."""
        provider, _ = self._deployment.catalog.resolve(self._wanted.provider)
        return scopes & provider.all_scopes - provider.own_scopes - self.token.granted

    async def _renew(self) -> Authority:
        deployment, spoiled = self._deployment, self.token.generation
        self.token = await exchange(
            self._wanted, vault=deployment.vault, now=deployment.now(), after_unauthorized=spoiled
        )
        return self._authority(deployment.catalog.provider(self._wanted.provider))

    def _authority(self, provider: Provider) -> Authority:
        token = self.token
        granted = authority(
            provider,
            scopes=token.scopes,
            granted=token.granted,
            is_narrow=token.narrowing is Narrowing.UPSTREAM,
        )
        # Permissions that the agent has for other calls anyway give it nothing more here.
        return Authority(token.value, token.scopes, granted=granted - (token.also_allowed - token.scopes))


async def _ask(
    deployment: Deployment,
    request: ToolRequest,
    spec: ToolSpec,
    missing: _ToGrant,
    *,
    wanted: ExchangeRequest,
) -> _Outcome:
    trouble = await deployment.pages.trouble()
    if trouble is not None:
        raise PagesElsewhere(
            f"This requires the person to open a page of the vault, but its address isn't safe: {trouble}"
        )
    if isinstance(missing, ApprovalRequired):
        return await _ask_approval(deployment, request, missing, call=wanted.call)
    if isinstance(missing, DelegationRequired):
        asked = await access_requests.ask_group(deployment, request.principal, missing, request.asking)
        if asked is not None:
            return _Outcome(asked, "refused", missing.code)
    was_ignored = _may_be_ignored(request.asking) and await has_unused_link(
        deployment, principal=request.principal, provider=missing.provider, scopes=missing.scopes
    )
    told = await tell(
        deployment,
        missing,
        request.principal,
        tool=request.name,
        account=wanted.account if missing.provider == wanted.provider else None,
        offered=await _still_offered(deployment, request.asking),
    )
    if not told.is_configured:
        text = told.text
        if request.transport == "stdio":  # the owner's own agent may know where it looks
            text += (
                f" This is the vault of the data directory {deployment.data}. If you set up another one, "
                "copy this client's entry from `token-vault client-config` with the same --data."
            )
        return _Outcome(failure(text), "refused", "provider_not_configured")
    if told.link is None:
        return _refusal(request, spec, told)
    return await _offer(deployment, request, told.link, code=told.code, was_ignored=was_ignored)


def _may_be_ignored(asking: AskingOptions) -> bool:
    """Whether the client claims to open links, but can't report that it didn't."""
    return asking.opens_urls and not asking.is_modern


async def _ask_approval(
    deployment: Deployment, request: ToolRequest, missing: ApprovalRequired, *, call: ToolCall | None
) -> _Outcome:
    """Ask for approval of this call; the same call asks once, and a refusal is valid for minutes."""
    if call is None:
        raise missing
    approval, is_new = await approvals.ask(deployment, principal=request.principal, refusal=missing, call=call)
    link = approvals.link_of(deployment, approval)
    if link is None:
        text = f"The person denied this call of {call.tool}, so nothing was done. Don't ask again; tell them instead."
        return _Outcome(failure(text), "refused", "approval_refused")
    if elicitation.is_task_due(request.asking):
        task = elicitation.in_task(link, task_id=approval.id, created_at=approval.created_at)
        return _Outcome(task, "refused", missing.code)
    was_ignored = _may_be_ignored(request.asking) and not is_new
    return await _offer(deployment, request, link, code=missing.code, was_ignored=was_ignored)


async def _offer(
    deployment: Deployment, request: ToolRequest, link: ConnectLink, *, code: str, was_ignored: bool
) -> _Outcome:
    offered = request.asking.offered
    if offered is None or link.url != offered.url:
        await _open_for_owner(deployment, link, request=request)
    try:
        return _Outcome(elicitation.offer(link, request.asking, was_ignored=was_ignored), "refused", code)
    except MCPError as error:
        return _Outcome(error, "refused", code)


async def _still_offered(deployment: Deployment, asking: AskingOptions) -> ConnectLink | None:
    """The link that this retry sent back, while it can be used, so that asking twice doesn't open two pages."""
    if asking.offered is None:
        return None
    handle = asking.offered.url.rpartition("/")[2]
    ticket = await tickets.peek(
        deployment.database, deployment.keys, handle, purpose=TicketPurpose.CONNECT, now=deployment.now()
    )
    return None if ticket is None else asking.offered


async def _open_for_owner(deployment: Deployment, link: ConnectLink, *, request: ToolRequest) -> None:
    """Open the link in the owner's browser, for a stdio client that cannot open links.

    A one-time secret signs the browser in; it goes to the browser only, never to the client or the model. A stdio
    process also serves HTTP to others: their calls must never open a window on the owner's desktop.
    """
    if deployment.open_browser is None or request.transport != "stdio" or request.asking.opens_urls:
        return
    path = link.url.removeprefix(deployment.public_url)
    deployment.open_browser(await owner_link(deployment, request.principal.user_id, return_to=path))


def _count(deployment: Deployment, request: ToolRequest, *, now: float) -> None:
    """Count a call that reaches no provider, but also leaves an event. Raises RateLimited."""
    principal = request.principal
    wait = deployment.budgets.spend(principal.user_id, agent_place(principal.client_id), now=now)
    if wait:
        text = f"This agent calls too often. Nothing was done; try again in {wait} s."
        raise RateLimited(text, retry_after=wait)


def _record(
    deployment: Deployment,
    request: ToolRequest,
    spec: ToolSpec,
    running: _RunningCall,
    *,
    outcome: str,
    code: str | None,
) -> None:
    milliseconds = round((time.monotonic() - running.started) * 1000)
    details: dict[str, object] = {"tool": spec.name, "transport": request.transport, "milliseconds": milliseconds}
    if code is not None:
        details["code"] = code
    if running.items is not None:
        details["items"] = running.items
    token = running.token
    if token is not None:
        details |= {"scopes": sorted(token.scopes), "narrowing": token.narrowing.value, "account": token.label}
        details |= {"approval": token.approval} if token.approval else {}
    activity = deployment.activity
    is_refusal = outcome == "refused" or code == RateLimited.code
    note = activity.note_refusal if is_refusal else activity.note
    note(
        Event(
            kind="tool.called",
            outcome=outcome,
            user_id=request.principal.user_id,
            client_id=request.principal.client_id,
            connection_id=None if token is None else token.connection_id,
            details=details,
        )
    )
