"""Links and codes with which an agent asks its person to connect an account or allow an existing one.

Nothing is linked unless the person who opens the link is the user that it was made for.
`server.connecting.provider_authorization` handles the redirect to the provider and back, `server.portal.connect` is the
page, and `server.mcp.elicitation` chooses how a link is offered.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from providers.definitions.articles import with_article
from providers.definitions.catalog import Provider
from server.connecting.app_returns import AppReturn, read_return
from server.deployment import Deployment
from server.errors import PersonRefused
from vault import connections, delegations, grants, limits, shared_connections, tickets
from vault.audit import audit
from vault.records import (
    Connection,
    ConnectionState,
    Event,
    Principal,
    Ticket,
    TicketPurpose,
    User,
    format_scope,
    parse_scope,
)
from vault.refusals import TransitionRefused
from vault.scopes import covers_all
from vault.storage.database import Transaction

LIFETIME: Final = 600  # seconds, for a link and for a redirect to the provider
_ACCOUNT_LIMIT: Final = 320  # characters kept of an account's name: longer than any address
LINKS: Final = 30  # per grant within a link's lifetime: a program in a loop must not fill the database


class ConnectRefused(PersonRefused):
    """Nothing was linked.

    `foreign` is the provider's own text, shortened; show it only escaped and marked as the provider's. `retry` is the
    path of a page where the person can try again.
    """

    code = "connect_refused"

    def __init__(
        self,
        description: str,
        *,
        kind: str = "invalid_request",
        foreign: str = "",
        retry: str = "",
        detail: str = "",
    ) -> None:
        super().__init__(description, kind=kind, detail=detail)
        self.foreign = foreign
        self.retry = retry


@dataclass(frozen=True, slots=True)
class ConnectLink:
    """What an agent gives its person: a link, and a code for use on another device."""

    url: str = field(repr=False)
    device_url: str
    user_code: str = field(repr=False)
    message: str

    def members(self) -> dict[str, str]:
        """The members for a JSON answer."""
        return {"connect_uri": self.url, "verification_uri": self.device_url, "user_code": self.user_code}


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """The request behind a link or code: which agent of which user wants what, and why.

    `account` is the requested account: its ID or label, the connection's ID, or any text from the agent; empty if none
    was named. Only the page compares it with the existing accounts.
    """

    user_id: str
    client_id: str | None
    provider: str
    scopes: frozenset[str]
    reason: str
    tool: str
    account: str = ""
    back: AppReturn | None = None  # where the browser goes afterwards; None for our own page

    def payload(self) -> dict[str, object]:
        return {
            "back": None if self.back is None else self.back.payload(),
            "provider": self.provider,
            "scopes": format_scope(self.scopes),
            "reason": self.reason,
            "tool": self.tool,
            "account": self.account,
        }


# Links for agents


async def connect_link(
    deployment: Deployment,
    *,
    principal: Principal,
    provider: str,
    scopes: frozenset[str],
    reason: str,
    tool: str,
    account: str | None = None,
) -> ConnectLink | None:
    """A new link and user code for this principal's user; None if this grant recently got `LINKS` of them.

    `account` is what the call is about, as in `ConnectRequest`. Neither link nor code reveals the user, or signs
    anyone in.
    """
    async with deployment.transaction() as transaction:
        bucket = f"link:{principal.grant_id}"
        if not await limits.spend(transaction, bucket, limit=LINKS, window=LIFETIME, now=deployment.now()):
            return None
    found = deployment.catalog.get(provider)
    name, title = (provider, provider) if found is None else (found.name, found.title)
    request = ConnectRequest(
        user_id=principal.user_id,
        client_id=principal.client_id,
        provider=name,
        scopes=scopes,
        reason=reason,
        tool=tool,
        account=(account or "")[:_ACCOUNT_LIMIT],
    )
    async with deployment.transaction() as transaction:
        handle = await _issue(transaction, deployment, request, TicketPurpose.CONNECT)
        user_code = await _issue(transaction, deployment, request, TicketPurpose.DEVICE)
    return ConnectLink(
        url=deployment.url(f"/connect/{handle}"),
        device_url=deployment.url("/device"),
        user_code=user_code,
        message=link_message(title, reason=reason, tool=tool),
    )


async def has_unused_link(
    deployment: Deployment, *, principal: Principal, provider: str, scopes: frozenset[str]
) -> bool:
    """Whether a link that this agent got for the same request can still be used, that is, hasn't been answered."""
    found = deployment.catalog.get(provider)
    name = provider if found is None else found.name
    unused = await tickets.list_unused(
        deployment.database,
        deployment.keys,
        purpose=TicketPurpose.CONNECT,
        user_id=principal.user_id,
        client_id=principal.client_id,
        now=deployment.now(),
    )
    return any((request.provider, request.scopes) == (name, scopes) for request in map(_request_of, unused))


def link_message(title: str, *, reason: str, tool: str) -> str:
    match reason:
        case "needs_reauth" | "ambiguous":
            return f"The {title} account must be reconnected before {tool} can run."
        case "scopes":
            return f"{tool} needs more {title} permissions than are connected."
        case "delegation":
            return f"{title} is connected, but this agent isn't allowed to use it for {tool} yet."
        case _:
            return f"{tool} needs {with_article(title)} account."


async def issue_link(deployment: Deployment, request: ConnectRequest) -> str:
    """The handle of a new connect link, which is valid for LIFETIME."""
    async with deployment.transaction() as transaction:
        return await _issue(transaction, deployment, request, TicketPurpose.CONNECT)


async def _issue(
    transaction: Transaction, deployment: Deployment, request: ConnectRequest, purpose: TicketPurpose
) -> str:
    return await tickets.issue(
        transaction,
        deployment.keys,
        purpose=purpose,
        payload=request.payload(),
        lifetime=LIFETIME,
        now=deployment.now(),
        user_id=request.user_id,
        client_id=request.client_id,
    )


def _request_of(ticket: Ticket) -> ConnectRequest:
    return ConnectRequest(
        user_id=ticket.user_id or "",
        client_id=ticket.client_id,
        provider=str(ticket.payload["provider"]),
        scopes=parse_scope(str(ticket.payload["scopes"])),
        reason=str(ticket.payload["reason"]),
        tool=str(ticket.payload["tool"]),
        account=str(ticket.payload.get("account", "")),
        back=read_return(ticket.payload.get("back")),
    )


async def load_link(deployment: Deployment, handle: str, *, user: User) -> ConnectRequest:
    """The link's request. Raises ConnectRefused if it has expired or was made for someone other than `user`."""
    ticket = await tickets.peek(
        deployment.database, deployment.keys, handle, purpose=TicketPurpose.CONNECT, now=deployment.now()
    )
    if ticket is None:
        raise _ended_link()
    if ticket.user_id != user.id:
        await deployment.activity.record_refusal(
            Event(
                kind="connect.refused",
                outcome="refused",
                user_id=user.id,
                client_id=ticket.client_id,
                details={"reason": "another_user"},
            )
        )
        raise ConnectRefused(
            "This link is for someone else, so nothing was connected. If your own agent gave you the "
            "link, sign out and sign in with the account that the agent uses. If a stranger sent it, "
            "close this page.",
            kind="forbidden",
        )
    return _request_of(ticket)


async def redeem_user_code(deployment: Deployment, typed: str, *, user: User) -> str:
    """The handle of the connect link for a device's code. Refuses all codes that aren't `user`'s in the same way."""
    refused = ConnectRefused("This code is wrong, was already used, or is older than ten minutes.", kind="not_found")
    now = deployment.now()
    ticket = await tickets.peek(deployment.database, deployment.keys, typed, purpose=TicketPurpose.DEVICE, now=now)
    if ticket is None or ticket.user_id != user.id:
        raise refused
    try:
        async with deployment.transaction() as transaction:
            await tickets.consume(transaction, deployment.keys, typed, purpose=TicketPurpose.DEVICE, now=now)
            return await _issue(transaction, deployment, _request_of(ticket), TicketPurpose.CONNECT)
    except TransitionRefused as error:
        raise refused from error


async def consume_link(deployment: Deployment, handle: str, *, event: Event | None = None) -> None:
    """Use up a connect link and record the event. Raises ConnectRefused if another request was faster."""
    async with deployment.transaction() as transaction:
        await use_link(deployment, transaction, handle)
        if event is not None:
            await audit.append(transaction, event, now=deployment.now())


async def use_link(
    deployment: Deployment, transaction: Transaction, handle: str, *, client_id: str | None = None
) -> None:
    """`consume_link` in the transaction that stores what the link allows this client.

    Both are one step, since whoever cuts off an agent ends its links.
    """
    # The client before its tickets, as in every end of an agent.
    if client_id is not None and not await grants.hold_client(transaction, client_id):
        raise _ended_link()
    try:
        await tickets.consume(transaction, deployment.keys, handle, purpose=TicketPurpose.CONNECT, now=deployment.now())
    except TransitionRefused as error:
        raise _ended_link() from error


def _ended_link() -> ConnectRefused:
    return ConnectRefused(
        "This link was used, is older than ten minutes, or ended with the agent's access. Ask the agent for a new one.",
        kind="gone",
    )


# What already exists


async def covering_connections(deployment: Deployment, request: ConnectRequest) -> tuple[Connection, ...]:
    """Working connections of the user or their groups that have all these scopes and only lack the agent's permission.

    An application that waits for an account gets only the person's own accounts.
    """
    provider = known_provider(deployment, request.provider)
    wanted = request.scopes - provider.own_scopes
    if request.back is None:
        usable = await shared_connections.usable_by(deployment.database, request.user_id, now=deployment.now())
    else:
        usable = await connections.list_connections(deployment.database, request.user_id)
    return tuple(
        connection
        for connection in usable
        if connection.provider == request.provider
        and connection.state is ConnectionState.ACTIVE
        and not connection.is_ambiguous
        and covers_all(connection.scopes, wanted, provider.covers)
    )


async def allow(
    deployment: Deployment,
    request: ConnectRequest,
    *,
    connection: Connection,
    ask: frozenset[str] = frozenset(),
    ends_at: int | None = None,
    link: str = "",
) -> None:
    """Let the agent use an existing connection with the scopes of the request, on these terms (see `Consent`).

    `link`: the handle of the connect link that is used up by that (see `use_link`). Raises ConnectRefused if another
    request was faster.
    """
    if request.client_id is None:
        if link:
            await consume_link(deployment, link)
        return
    now, provider = deployment.now(), known_provider(deployment, connection.provider)
    scopes = request.scopes & provider.own_scopes if provider.is_remote else request.scopes
    async with deployment.transaction() as transaction:
        if link:
            await use_link(deployment, transaction, link, client_id=request.client_id)
        await delegations.extend(
            transaction,
            user_id=request.user_id,
            client_id=request.client_id,
            connection_id=connection.id,
            scopes=scopes,
            now=now,
            ask=ask,
            expires_at=ends_at,
        )
        event = delegations.extended_event(
            replace(connection, user_id=request.user_id),
            client_id=request.client_id,
            scopes=scopes,
            ask=ask,
            expires_at=ends_at,
        )
        await audit.append(transaction, event, now=now)


def known_provider(deployment: Deployment, name: str) -> Provider:
    """The provider with that name. Raises ConnectRefused if its file is gone."""
    provider = deployment.catalog.get(name)
    if provider is None:
        raise ConnectRefused("This vault no longer knows this provider.", kind="not_found")
    return provider
