"""The trip to a provider and back: the `state` that counts once, the callback's checks, and what is stored in the end.

The account and the agent's delegation are stored together or not at all. Which scopes to ask for is decided by the
pages (`server.portal`); speaking OAuth is `providers.oauth`.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from providers.catalog import Provider
from server.connect import LIFETIME, ConnectRefused, ConnectRequest, delegated_event, issue_link, known_provider
from server.deployment import Deployment
from server.settings import LOOPBACK_HOSTS
from server.upstream_errors import mend_for
from vault import audit, connections, delegations, tickets
from vault.attenuate import meet, missing
from vault.records import Connection, Event, Session, Ticket, TicketPurpose, User, format_scope, parse_scope
from vault.refusals import TransitionRefused
from vault.upstream import Account, TokenAnswer, UpstreamError

_ERROR_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_FOREIGN_TEXT_LIMIT: Final = 200


@dataclass(frozen=True, slots=True)
class Trip:
    """One consent at a provider: what is asked there, and what an agent gets of it afterwards."""

    provider: str
    scopes: frozenset[str]
    client_id: str | None = None
    delegated: frozenset[str] = frozenset()
    login_hint: str | None = None


@dataclass(frozen=True, slots=True)
class Connected:
    """What came of a trip."""

    connection: Connection
    client_id: str | None
    delegated: frozenset[str]
    not_granted: frozenset[str]


@dataclass(frozen=True, slots=True)
class Callback:
    """The query of a provider's redirect, as it came."""

    state: str = field(repr=False)
    code: str = field(repr=False)
    error: str
    error_description: str
    issuer: str | None


def callback_url(deployment: Deployment, provider: str) -> str:
    """The redirect address of a provider: one per provider, so that answers cannot be mixed up (RFC 9700 §4.4)."""
    return deployment.url(f"/connect/callback/{provider}")


async def start(deployment: Deployment, trip: Trip, *, user: User, session: Session) -> str:
    """The provider's URL for this trip; its `state` counts once, for this user in this browser session only."""
    provider = known_provider(deployment, trip.provider)
    upstream = deployment.vault.upstreams[provider.name]
    if not upstream.is_configured:
        raise ConnectRefused(
            f"{provider.title} is not set up here yet: whoever runs this vault registers it there with "
            f"token-vault providers setup {provider.name}",
            status=409,
        )
    if needs_https(provider, deployment.public_url):
        raise ConnectRefused(
            f"{provider.title} takes an app with a client secret at an https address only. Whoever runs this vault "
            "sets server.public_url to one, or takes an app without a secret: "
            f"token-vault providers setup {provider.name}",
            status=409,
        )
    verifier = secrets.token_urlsafe(48)
    state = secrets.token_urlsafe(32)
    async with deployment.transaction() as transaction:
        await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.UPSTREAM_STATE,
            payload={
                "provider": provider.name,
                "scopes": format_scope(trip.scopes),
                "delegated": format_scope(trip.delegated),
                "verifier": verifier,
            },
            lifetime=LIFETIME,
            now=deployment.now(),
            user_id=user.id,
            client_id=trip.client_id,
            binding=session.token_hash,
            secret=state,
        )
    return upstream.authorization_url(
        redirect_uri=callback_url(deployment, provider.name),
        state=state,
        scopes=trip.scopes,
        code_verifier=verifier,
        login_hint=trip.login_hint,
    )


def needs_https(provider: Provider, public_url: str) -> bool:
    """Whether this provider is sure to refuse our redirect address: those that have public apps for loopback take an
    app with a secret over https only. The sandbox, itself on loopback, is not so strict.
    """
    is_sandbox = urlsplit(provider.hosts.authorize_url).hostname in LOOPBACK_HOSTS
    has_secret = provider.public_client is not None and provider.client_auth != "none"
    return has_secret and urlsplit(public_url).scheme == "http" and not is_sandbox


async def finish_callback(
    deployment: Deployment, provider_name: str, callback: Callback, *, user: User, session: Session
) -> Connected:
    """Redeem the provider's code and store the connection and the agent's delegation together.

    Raises ConnectRefused; nothing is linked then, and the refusal is an event.
    """
    try:
        provider = known_provider(deployment, provider_name)
        ticket = await _claim_state(deployment, provider, callback, user=user, session=session)
        answer = await _redeem(deployment, provider, callback, ticket)
    except ConnectRefused as refusal:
        details: dict[str, object] = {"provider": provider_name[:40], "reason": refusal.detail}
        await deployment.activity.record(
            Event(kind="connection.refused", outcome="refused", user_id=user.id, details=details)
        )
        raise
    trip = Trip(
        provider.name,
        parse_scope(str(ticket.payload["scopes"])),
        client_id=ticket.client_id,
        delegated=parse_scope(str(ticket.payload["delegated"])),
    )
    return await _store(deployment, trip, answer, user_id=user.id)


async def consent_here(deployment: Deployment, trip: Trip, *, user: User) -> Connected:
    """The consent to an API that takes tokens of ours: the person gave it on our page, and is the account.

    What is sealed is empty: a token is made for each call.
    """
    account = Account(user.id, user.name)
    answer = TokenAnswer(access_token="", scopes=trip.scopes, account=account)
    return await _store(deployment, trip, answer, user_id=user.id)


async def _claim_state(
    deployment: Deployment, provider: Provider, callback: Callback, *, user: User, session: Session
) -> Ticket:
    """The ticket behind `state`, used up. Another browser, user or provider leaves it as it is."""
    now = deployment.now()
    refused = ConnectRefused(
        "This answer does not belong to anything that you started in this browser, or it came twice or too late. "
        "Nothing was connected; start again.",
        detail="state",
    )
    ticket = await tickets.peek(
        deployment.database, deployment.keys, callback.state, purpose=TicketPurpose.UPSTREAM_STATE, now=now
    )
    if (
        ticket is None
        or ticket.user_id != user.id
        or not hmac.compare_digest(ticket.binding or b"", session.token_hash)
        or ticket.payload.get("provider") != provider.name
    ):
        raise refused
    if not is_issuer_of(callback.issuer, provider):
        raise ConnectRefused(
            "The answer does not come from the service that you were sent to. Nothing was connected.", detail="issuer"
        )
    try:
        async with deployment.transaction() as transaction:
            return await tickets.consume(
                transaction, deployment.keys, callback.state, purpose=TicketPurpose.UPSTREAM_STATE, now=now
            )
    except TransitionRefused as error:
        raise refused from error


def is_issuer_of(issuer: str | None, provider: Provider) -> bool:
    """RFC 9207 §2.4: the `iss` that the provider promises, character by character. Of a provider that promises none,
    one that comes must be on the origin that we send people to.
    """
    if provider.hosts.issuer is not None or issuer is None:
        return issuer == provider.hosts.issuer
    try:
        asked, sent = urlsplit(provider.hosts.authorize_url), urlsplit(issuer)
    except ValueError:
        return False
    return (sent.scheme, sent.netloc.lower()) == (asked.scheme, asked.netloc.lower())


async def _redeem(deployment: Deployment, provider: Provider, callback: Callback, ticket: Ticket) -> TokenAnswer:
    if callback.error or not callback.code:
        refusal = provider_refusal(deployment, provider, callback.error or "no_code", text=callback.error_description)
        refusal.retry = await _retry_path(deployment, ticket)
        raise refusal
    try:
        return await deployment.vault.upstreams[provider.name].redeem(
            code=callback.code,
            redirect_uri=callback_url(deployment, provider.name),
            code_verifier=str(ticket.payload["verifier"]),
        )
    except UpstreamError as error:
        raise provider_refusal(deployment, provider, error.code, text=error.description) from error


async def _retry_path(deployment: Deployment, ticket: Ticket) -> str:
    """Where the person can change their mind after saying no at the provider: the same question again."""
    provider = str(ticket.payload["provider"])
    if ticket.client_id is None:
        return f"/connections/connect?provider={provider}"
    request = ConnectRequest(
        user_id=ticket.user_id or "",
        client_id=ticket.client_id,
        provider=provider,
        scopes=parse_scope(str(ticket.payload["delegated"])),
        reason="missing",
        tool="",
    )
    return f"/connect/{await issue_link(deployment, request)}"


def provider_refusal(deployment: Deployment, provider: Provider, code: str, *, text: str) -> ConnectRefused:
    """A provider's error with what to do about it; its own words cut short and without control characters."""
    known = code if _ERROR_CODE.fullmatch(code) else "unreadable_error"
    redirect = callback_url(deployment, provider.name)
    mend = mend_for(known, name=provider.name, title=provider.title, redirect=redirect)
    printable = "".join(c if c.isprintable() else " " for c in text[: 2 * _FOREIGN_TEXT_LIMIT])
    foreign = f"{known}: {printable.strip()}" if printable.strip() else known
    return ConnectRefused(f"{provider.title} refused. {mend}", foreign=foreign[:_FOREIGN_TEXT_LIMIT], detail=known)


async def _store(deployment: Deployment, trip: Trip, answer: TokenAnswer, *, user_id: str) -> Connected:
    policy = deployment.vault.policies[trip.provider]
    now = deployment.now()
    async with deployment.transaction() as transaction:
        connection = await connections.open_connection(
            transaction,
            deployment.keys,
            user_id=user_id,
            provider=trip.provider,
            answer=answer,
            asked=trip.scopes,
            policy=policy,
            now=now,
        )
        delegated = (
            meet(trip.delegated, connection.scopes, policy.covers) if trip.client_id is not None else frozenset[str]()
        )
        events = [
            Event(
                kind="connection.opened",
                user_id=user_id,
                client_id=trip.client_id,
                connection_id=connection.id,
                details={
                    "provider": trip.provider,
                    "account": connection.label,
                    "scopes": sorted(connection.scopes),
                },
            )
        ]
        if trip.client_id is not None and delegated:
            await delegations.extend(
                transaction,
                user_id=user_id,
                client_id=trip.client_id,
                connection_id=connection.id,
                scopes=delegated,
                now=now,
            )
            events.append(delegated_event(connection, client_id=trip.client_id, scopes=delegated))
        await audit.append(transaction, *events, now=now)
    not_granted = missing(trip.scopes, connection.scopes, policy.covers) - policy.always_granted
    return Connected(connection, trip.client_id, delegated, not_granted)
