"""The redirect to a provider and back: a single-use `state`, the checks at the callback, and storing the result.

The account and the agent's delegation are stored together or not at all; `vault.refresh.consents` does that once the
provider has answered. The pages (`server.portal`) decide which scopes to request; `providers.oauth.client` implements
OAuth.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import urlencode, urlsplit

from providers.definitions.catalog import Provider
from providers.definitions.issuers import is_same_issuer
from server.connecting.app_returns import AppReturn, read_return
from server.connecting.links import (
    LIFETIME,
    ConnectRefused,
    ConnectRequest,
    allow,
    issue_link,
    known_provider,
    use_link,
)
from server.connecting.provider_errors import fix_for
from server.deployment import Deployment
from server.settings import LOOPBACK_HOSTS
from server.sign_in import step_up
from vault import connections, tickets
from vault.keys.key_ring import ConnectionKey
from vault.records import (
    Connection,
    ConnectionState,
    Event,
    Session,
    Ticket,
    TicketPurpose,
    User,
    format_scope,
    parse_scope,
)
from vault.refresh import company, consents
from vault.refresh.consents import Consent
from vault.refusals import StorageUnavailable, TemporarilyUnavailable, TransitionRefused
from vault.scopes import meet, missing_scopes
from vault.storage.database import Transaction
from vault.upstream import Account, TokenAnswer, UpstreamError

_ERROR_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_FOREIGN_TEXT_LIMIT: Final = 200
_PATIENCE: Final = 8.0  # seconds that a person who reloads the page waits for work in progress


@dataclass(frozen=True, slots=True)
class ConsentRequest:
    """A consent at a provider: what is requested there, and what an agent gets of it afterwards (see `Consent`)."""

    provider: str
    scopes: frozenset[str]
    client_id: str | None = None
    delegated: frozenset[str] = frozenset()
    ask: frozenset[str] = frozenset()
    ends_at: int | None = None
    login_hint: str | None = None
    back: AppReturn | None = None
    replaces: str | None = None  # the connection whose entered credential is replaced
    is_by_hand: bool = False  # the person chose the service's own page, even if their company vouches for them
    link: str = field(default="", repr=False)  # the handle of the connect link that is used up by this

    def payload(self) -> dict[str, object]:
        """The fields that a ticket stores, in addition to its user and client."""
        return {
            "provider": self.provider,
            "scopes": format_scope(self.scopes),
            "delegated": format_scope(self.delegated),
            "ask": format_scope(self.ask),
            "ends_at": self.ends_at,
            "back": None if self.back is None else self.back.payload(),
            "replaces": self.replaces,
        }

    async def use_link(self, deployment: Deployment, transaction: Transaction) -> None:
        """Use up the connect link, if any, in the transaction that stores this. Raises ConnectRefused."""
        if self.link:
            await use_link(deployment, transaction, self.link, client_id=self.client_id)

    def consent_of(self, user_id: str, *, entered: Event | None = None) -> Consent:
        """The consent to store for this request. `entered`: the event that an admin gave it for the person."""
        return Consent(
            user_id,
            self.provider,
            self.scopes,
            client_id=self.client_id,
            delegated=self.delegated,
            ask=self.ask,
            ends_at=self.ends_at,
            entered=entered,
        )


@dataclass(frozen=True, slots=True)
class ConnectResult:
    """The result of a redirect. `delegated`: what the agent was to get of it, even if its permission ended since."""

    connection: Connection
    client_id: str | None
    delegated: frozenset[str]
    not_granted: frozenset[str]


@dataclass(frozen=True, slots=True)
class Callback:
    """The query of a provider's redirect, as received."""

    state: str = field(repr=False)
    code: str = field(repr=False)
    error: str
    error_description: str
    issuer: str | None


def callback_url(deployment: Deployment, provider: str) -> str:
    """The redirect URI of a provider: one per provider, so that answers can't be mixed up (RFC 9700 §4.4)."""
    return deployment.url(f"/connect/callback/{provider}")


async def start(deployment: Deployment, trip: ConsentRequest, *, user: User, session: Session) -> str:
    """The provider's URL for this redirect; its `state` works once, and only for this user in this browser session.

    Raises ConnectRefused, or StepUpRequired if the session isn't authenticated strongly enough.
    """
    provider = known_provider(deployment, trip.provider)
    await check_may_connect(deployment, session, provider)
    if provider.retired is not None:
        raise ConnectRefused(provider.retired, kind="conflict")
    upstream = deployment.vault.upstreams[provider.name]
    if not upstream.is_configured:
        raise ConnectRefused(
            f"{provider.title} isn't set up on this vault. Ask an admin to set it up at "
            f"{deployment.url(f'/administration/providers/{provider.name}')}, or with token-vault providers setup "
            f"{provider.name}",
            kind="conflict",
        )
    if needs_https(provider, deployment.public_url):
        raise ConnectRefused(
            f"{provider.title} accepts an app with a client secret only at an https address. Ask an "
            "admin to set server.public_url to one, or to use an app without a secret: token-vault "
            f"providers setup {provider.name}",
            kind="conflict",
        )
    verifier = secrets.token_urlsafe(48)
    state = secrets.token_urlsafe(32)
    async with deployment.transaction() as transaction:
        await trip.use_link(deployment, transaction)
        await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.UPSTREAM_STATE,
            payload={**trip.payload(), "verifier": verifier, "token_url": provider.hosts.token_url},
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


async def return_of(deployment: Deployment, state: str, *, user: User) -> AppReturn | None:
    """Where the browser goes after this redirect, whatever its result; None for our own page."""
    used = await tickets.state_with_outcome(deployment.database, deployment.keys, state, now=deployment.now())
    return None if used is None or used[0].user_id != user.id else read_return(used[0].payload.get("back"))


async def check_may_connect(deployment: Deployment, session: Session, provider: Provider, *, back: str = "") -> None:
    """Raises StepUpRequired if the operator requires a passkey before an account is connected."""
    path = back or "/connections/connect?" + urlencode({"provider": provider.name})
    await step_up.check_passkey(deployment, session, "connections", back=path)


def needs_https(provider: Provider, public_url: str) -> bool:
    """Whether this provider is certain to refuse our redirect URI.

    Providers that have public apps for loopback accept an app with a secret over https only. The sandbox, which is
    itself on loopback, is less strict.
    """
    is_sandbox = urlsplit(provider.hosts.authorize_url).hostname in LOOPBACK_HOSTS
    has_secret = provider.public_client is not None and provider.client_auth != "none"
    return has_secret and urlsplit(public_url).scheme == "http" and not is_sandbox


async def finish_callback(
    deployment: Deployment, provider_name: str, callback: Callback, *, user: User, session: Session
) -> ConnectResult:
    """Redeem the provider's code and store the connection and the agent's delegation together.

    Once the provider has answered, the consent can't be lost: raises TemporarilyUnavailable if it will be stored later,
    and returns the stored result if the same answer arrives again after that. Raises ConnectRefused if nothing is
    linked; the refusal is an event.
    """
    try:
        provider = known_provider(deployment, provider_name)
        late = await _stored_late(deployment, provider, callback, user=user, session=session)
        if late is not None:
            return late
        ticket, key = await _claim_state(deployment, provider, callback, user=user, session=session)
        completing = _complete(deployment, provider, callback, ticket, key=key)
        # Closing the page doesn't stop work that has begun.
        return await asyncio.shield(deployment.vault.tasks.finish(consents.consent_of(ticket).name, completing))
    except ConnectRefused as refusal:
        details: dict[str, object] = {"provider": provider_name[:40], "reason": refusal.detail}
        await deployment.activity.record_refusal(
            Event(kind="connection.refused", outcome="refused", user_id=user.id, details=details)
        )
        raise


async def _complete(
    deployment: Deployment, provider: Provider, callback: Callback, ticket: Ticket, *, key: ConnectionKey
) -> ConnectResult:
    """Redeem the code, keep the answer, and store it, immediately or as soon as the storage allows."""
    vault, consent = deployment.vault, consents.consent_of(ticket)
    kept: list[TokenAnswer] = []

    async def keep(answer: TokenAnswer) -> None:
        kept.append(answer)
        await consents.keep(vault, consent, answer, key=key, at_ms=consents.milliseconds(vault))

    try:
        answer = await _redeem(deployment, provider, callback, ticket, keep=keep)
    except ConnectRefused:
        if kept:  # there are tokens, but their account is unknown
            await _leave(deployment, consent, kept[-1])
        else:
            await consents.refuse(vault, consent)
        raise
    vault.tasks.breakers.note_answer(provider.name, now=deployment.now())  # it works, and accepts our client
    at_ms = consents.milliseconds(vault)
    is_kept = await consents.keep(vault, consent, answer, key=key, at_ms=at_ms)
    try:
        stored = await consents.store(vault, consent, answer, at_ms=at_ms)
    except TransitionRefused as error:
        await _leave(deployment, consent, answer)
        raise ConnectRefused(error.description, detail="no_account") from error
    except (StorageUnavailable, TemporarilyUnavailable) as error:
        vault.tasks.finish(consent.name, consents.finish(vault, consent, answer, at_ms=at_ms, is_kept=is_kept))
        raise _under_way() from error
    if stored is None:
        raise ConnectRefused("This answer was already used. Check your accounts.", detail="state")
    return connection_outcome(deployment, consent, stored.connection)


async def _leave(deployment: Deployment, consent: Consent, answer: TokenAnswer) -> None:
    """End a grant that didn't become a connection, now or when the storage is back."""
    vault, nobodys = deployment.vault, replace(answer, account=None)
    try:
        await consents.give_up(vault, consent, nobodys)
    except (StorageUnavailable, TemporarilyUnavailable):
        vault.tasks.finish(consent.name, consents.finish(vault, consent, nobodys, at_ms=0, is_kept=False))


def _under_way() -> TemporarilyUnavailable:
    return TemporarilyUnavailable(
        "The provider agreed, and the vault has its answer but can't store it right now. Reload "
        "this page in a moment, or check your accounts later: the account is connected as soon as "
        "storage works.",
        retry_after=5,
    )


def connection_outcome(deployment: Deployment, consent: Consent, connection: Connection) -> ConnectResult:
    """What the pages show about a stored consent."""
    policy = deployment.vault.policies[consent.provider]
    not_granted = missing_scopes(consent.scopes, connection.scopes, policy.covers) - policy.always_granted
    delegated = meet(consent.delegated, policy.delegable(connection.scopes), policy.covers)
    return ConnectResult(connection, consent.client_id, delegated, not_granted)


async def _stored_late(
    deployment: Deployment, provider: Provider, callback: Callback, *, user: User, session: Session
) -> ConnectResult | None:
    """The result of this answer if it arrived before and couldn't be stored immediately.

    Raises TemporarilyUnavailable while it still can't be stored.
    """
    vault, now = deployment.vault, deployment.now()
    used = await tickets.state_with_outcome(deployment.database, deployment.keys, callback.state, now=now)
    if used is None or not _is_own(used[0], provider, user=user, session=session):
        return None
    ticket, outcome = used
    consent = consents.consent_of(ticket)
    if outcome is None:
        await vault.tasks.wait_until_finished(consent.name, patience=_PATIENCE)
        try:
            is_held = vault.tasks.is_finishing(consent.name) or await consents.adopt(vault, ticket)
        except (StorageUnavailable, TemporarilyUnavailable) as error:
            raise _under_way() from error
        used = await tickets.state_with_outcome(deployment.database, deployment.keys, callback.state, now=now)
        outcome = None if used is None else used[1]
        if outcome is None and is_held:
            raise _under_way()
    if outcome is None or not outcome.startswith(consents.LATE):
        return None
    found = await connections.get_connection(deployment.database, outcome.removeprefix(consents.LATE), user_id=user.id)
    if found is None:
        return None
    return connection_outcome(deployment, consent, found)


def _is_own(ticket: Ticket, provider: Provider, *, user: User, session: Session) -> bool:
    """Whether this `state` was made for this person, provider, and browser session.

    The code must not go to another server: in the meantime, an admin may have added one with the same name.
    """
    is_same_browser = hmac.compare_digest(ticket.binding or b"", session.token_hash)
    token_url = provider.hosts.token_url
    is_same_server = ticket.payload.get("token_url", token_url) == token_url  # an earlier release stored none
    is_same_provider = ticket.payload.get("provider") == provider.name and is_same_server
    return is_same_browser and ticket.user_id == user.id and is_same_provider


async def consent_here(deployment: Deployment, trip: ConsentRequest, *, user: User, session: Session) -> ConnectResult:
    """Store the consent to an API that accepts our tokens: the person gave it on our page and is the account.

    The sealed credential is empty, since each call gets its own token. Raises the same as `start`.
    """
    await check_may_connect(deployment, session, known_provider(deployment, trip.provider))
    consent = trip.consent_of(user.id)
    answer = TokenAnswer(access_token="", scopes=trip.scopes, account=Account(user.id, user.name))
    at_ms = consents.milliseconds(deployment.vault)

    async def guard(transaction: Transaction) -> None:
        await deployment.check_caller(transaction)
        await trip.use_link(deployment, transaction)

    stored = await consents.store(deployment.vault, consent, answer, at_ms=at_ms, guard=guard)
    if stored is None:
        raise ConnectRefused("Nothing was connected. Try again.", detail="state")
    return connection_outcome(deployment, consent, stored.connection)


async def by_company(deployment: Deployment, trip: ConsentRequest, *, user: User) -> ConnectResult | None:
    """Connect without the provider's page, if the person's company vouches for them there.

    None if the company doesn't, or if the person already has an account there and wants another one or more scopes.
    """
    if trip.back is not None or deployment.vault.assertions is None:
        return None
    for known in await connections.find(deployment.database, user.id, provider=trip.provider):
        if known.state is ConnectionState.ACTIVE:
            return None
    connection = (await company.connect(deployment.vault, user.id, trip.provider, is_asked=True)).connection
    if connection is None:
        return None
    policy = deployment.vault.policies[trip.provider]
    delegated = meet(trip.delegated, policy.delegable(connection.scopes), policy.covers)
    client_id = trip.client_id if delegated else None
    request = ConnectRequest(user.id, client_id, trip.provider, delegated, reason="missing", tool="")
    await allow(deployment, request, connection=connection, ask=trip.ask, ends_at=trip.ends_at, link=trip.link)
    not_granted = missing_scopes(trip.scopes, connection.scopes, policy.covers) - policy.always_granted
    return ConnectResult(connection, trip.client_id, delegated, not_granted)


async def _claim_state(
    deployment: Deployment, provider: Provider, callback: Callback, *, user: User, session: Session
) -> tuple[Ticket, ConnectionKey]:
    """Use up the ticket behind `state`; also returns the key of the answer, for which disk space is reserved.

    A request by another browser, user, or provider leaves the ticket unchanged.
    """
    now = deployment.now()
    refused = ConnectRefused(
        "This answer doesn't belong to a connection that you started in this browser, or it arrived "
        "twice or too late. Nothing was connected; start again.",
        detail="state",
    )
    ticket = await tickets.peek(
        deployment.database, deployment.keys, callback.state, purpose=TicketPurpose.UPSTREAM_STATE, now=now
    )
    if ticket is None or not _is_own(ticket, provider, user=user, session=session):
        raise refused
    if not is_issuer_of(callback.issuer, provider):
        raise ConnectRefused(
            "The answer didn't come from the service that you were sent to. Nothing was connected.", detail="issuer"
        )
    await consents.reserve(deployment.vault, ticket)
    try:
        async with deployment.transaction() as transaction:
            used = await tickets.consume(
                transaction, deployment.keys, callback.state, purpose=TicketPurpose.UPSTREAM_STATE, now=now
            )
            return used, await consents.make_key(transaction, deployment.vault, consents.consent_of(used))
    except TransitionRefused as error:
        raise refused from error


def is_issuer_of(issuer: str | None, provider: Provider) -> bool:
    """Whether `iss` is exactly the issuer that the provider promises (RFC 9207 §2.4).

    If the provider promises none, an `iss` in the answer must have the origin that we send people to.
    """
    if issuer is None:
        return provider.hosts.issuer is None
    if provider.hosts.issuer is not None:
        return is_same_issuer(issuer, provider.hosts.issuer)
    try:
        asked, sent = urlsplit(provider.hosts.authorize_url), urlsplit(issuer)
    except ValueError:
        return False
    return (sent.scheme, sent.netloc.lower()) == (asked.scheme, asked.netloc.lower())


async def _redeem(
    deployment: Deployment,
    provider: Provider,
    callback: Callback,
    ticket: Ticket,
    *,
    keep: Callable[[TokenAnswer], Awaitable[None]],
) -> TokenAnswer:
    if callback.error or not callback.code:
        refusal = provider_refusal(deployment, provider, callback.error or "no_code", text=callback.error_description)
        refusal.retry = await _retry_path(deployment, ticket)
        raise refusal
    try:
        return await deployment.vault.upstreams[provider.name].redeem(
            code=callback.code,
            redirect_uri=callback_url(deployment, provider.name),
            code_verifier=str(ticket.payload["verifier"]),
            state=callback.state,
            keep=keep,
        )
    except UpstreamError as error:
        raise provider_refusal(deployment, provider, error.code, text=error.description) from error


async def _retry_path(deployment: Deployment, ticket: Ticket) -> str:
    """The path where a person who refused at the provider can reconsider: the same request again."""
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
    """A provider's error with what to do about it; its own text is shortened and stripped of control characters."""
    known = code if _ERROR_CODE.fullmatch(code) else "unreadable_error"
    redirect = callback_url(deployment, provider.name)
    fix = fix_for(known, name=provider.name, title=provider.title, redirect=redirect)
    printable = "".join(c if c.isprintable() else " " for c in text[: 2 * _FOREIGN_TEXT_LIMIT])
    foreign = f"{known}: {printable.strip()}" if printable.strip() else known
    return ConnectRefused(f"{provider.title} refused. {fix}", foreign=foreign[:_FOREIGN_TEXT_LIMIT], detail=known)
