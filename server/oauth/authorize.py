"""The authorization endpoint (OAuth 2.1 §4.1, RFC 9207, RFC 8707).

Checks a request, keeps it while the person decides, and answers with a code or an error. `server.portal` signs people
in and asks them; it calls `load_pending`, `find_consent`, `approve` and `deny`. Connecting upstream accounts is a
separate flow.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from server.deployment import Deployment
from server.errors import status_of
from server.http.addresses import address_of, counting_key
from server.http.pages import error_page, go
from server.http.redirects import with_parameters
from server.oauth import pushed_requests, resources
from server.oauth.authorization_request import AuthorizationRequest, payload_of, stored_request, with_sign_in_rule
from server.oauth.clients import auth0, authentication
from server.oauth.clients.commands import sign_in_words
from server.oauth.clients.rules import is_loopback_only, trusts_consent
from server.oauth.parameters import Parameters, parse_parameters
from server.oauth.pkce import check_challenge
from server.oauth.pushed_requests import PushedRequest
from server.oauth.redirect_uris import is_loopback_redirect, redirect_host, redirect_matches, without_loopback_port
from server.oauth.rules import (
    EXCHANGE_SCOPE,
    TOKEN_EXCHANGE,
    OAuthError,
    admin_resource,
    choose_scopes,
    parse_max_age,
    parse_prompt,
)
from server.oauth.wire import as_oauth_error, read_form
from server.sign_in import password, roles, step_up
from server.sign_in.callers import SessionCaller, SessionEnded
from vault import clients, grants, limits, tickets, users
from vault.audit import audit
from vault.records import Client, ClientKind, Event, Grant, Session, TicketPurpose, User, parse_scope
from vault.refusals import TransitionRefused, VaultError
from vault.storage.database import Transaction

REQUEST_LIFETIME: Final = 600  # seconds to sign in and decide
_STATE_LIMIT: Final = 4096
_NONCE_LIMIT: Final = 512
_ADDRESSES: Final = 20  # the number of addresses that can each have the maximum number of waiting requests
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_UNKNOWN_AGENT: Final = (  # the same for every cause: different texts would distinguish open ports from closed ones
    "This vault doesn't know the agent, or no longer does: the agent must discard its registration and register again. "
    f"{sign_in_words()}. If it uses a client ID metadata document, ask an admin "
    "to add its host to registration.allowed_hosts, and make sure that the vault can reach it"
)
_DEVICE_ANSWERED: Final = "/device/answered"


@dataclass(frozen=True, slots=True)
class PendingAuthorization:
    """A request that waits for the person, with the data for the consent page."""

    handle: str = field(repr=False)
    client: Client
    redirect_uri: str
    redirect_host: str
    scopes: frozenset[str]
    resource: str
    warnings: tuple[str, ...]
    asks_always: bool
    wanted: AuthorizationRequest = field(repr=False)
    session: bytes | None = field(repr=False)  # hash of the session that entered the device's code

    def belongs_to(self, session: Session) -> bool:
        """Whether this browser may see and answer the request; see `_is_answerable`."""
        return _is_answerable(self.wanted, self.session, session)


def _is_answerable(wanted: AuthorizationRequest, bound_to: bytes | None, session: Session) -> bool:
    """Whether a session may answer a waiting request.

    The answer to an ordinary request is sent through the browser that gives it, so forwarding its link gains nothing
    over forwarding `/authorize`. The answer to a device's request waits for the device (RFC 8628 §5.4): only the
    session that entered the code may give it.
    """
    if wanted.device is None:
        return True
    return bound_to is not None and hmac.compare_digest(bound_to, session.token_hash)


async def authorize(deployment: Deployment, request: Request) -> Response:
    """GET or POST /authorize. Redirects only once client and redirect URI are known to belong together."""
    try:
        parameters, pushed = await _parameters(deployment, request)
        client, redirect_uri = await _destination(deployment, request, parameters)
    except VaultError as refusal:
        return _refusal_page(request, as_oauth_error(refusal))
    except OAuthError as error:
        return _refusal_page(request, error)
    try:
        pushed_requests.check_was_pushed(deployment, client, was_pushed=pushed is not None)
        wanted = await _read(deployment, parameters, client=client, redirect_uri=redirect_uri)
        return await _proceed(deployment, request, wanted, client=client, parameters=parameters, pushed=pushed)
    except pushed_requests.RequestUriRefused as refused:  # simultaneous requests with it
        return _refusal_page(request, refused)
    except VaultError as refusal:
        error = as_oauth_error(refusal)
    except OAuthError as refused:
        error = refused
    state = None if "state" in parameters.repeated else parameters.get("state")
    known = {"error": error.code, "error_description": error.description}
    return go(_answer_url(deployment, redirect_uri, known, state=state))


def _refusal_page(request: Request, error: OAuthError) -> Response:
    title = "This agent can't sign in"
    return error_page(request, title, f"{error.description}. Go back to the agent and start again there.", error.status)


async def _parameters(deployment: Deployment, request: Request) -> tuple[Parameters, PushedRequest | None]:
    """The parameters, and the pushed request (RFC 9126) if they are from one."""
    if request.method == "POST":  # OpenID Connect Core §3.1.2.1
        sent = await read_form(request)
    else:
        sent = parse_parameters(request.url.query)
    pushed = await pushed_requests.find(deployment, sent)
    return sent if pushed is None else pushed.parameters, pushed


async def _destination(deployment: Deployment, request: Request, parameters: Parameters) -> tuple[Client, str]:
    """Who asks and where answers go (RFC 6749 §4.1.2.1). Raises OAuthError, to be shown on a page only."""
    if parameters.repeated & {"client_id", "redirect_uri"}:
        raise OAuthError("invalid_request", "The request contains client_id or redirect_uri twice")
    client_id = parameters.get("client_id")
    client = None
    if client_id is not None:
        address = address_of(request)
        client = await authentication.find_client(deployment, client_id, address=address, must_be_fresh=True)
    if client is None:
        raise OAuthError("unknown_agent", _UNKNOWN_AGENT)
    return client, _redirect_uri(parameters, client)


def _redirect_uri(parameters: Parameters, client: Client) -> str:
    asked = parameters.get("redirect_uri")
    if asked is None:
        match client.redirect_uris:
            case [uri] if not is_loopback_redirect(uri):
                return uri
            case _:
                raise OAuthError("invalid_request", "The request has no redirect_uri")
    if not redirect_matches(client.redirect_uris, asked):
        raise OAuthError("invalid_request", "The agent hasn't registered this redirect_uri")
    return asked


async def check_request(deployment: Deployment, parameters: Parameters, *, client: Client) -> None:
    """All checks of a pushed request (RFC 9126 §2.1). Raises OAuthError."""
    redirect_uri = _redirect_uri(parameters, client)
    await _read(deployment, parameters, client=client, redirect_uri=redirect_uri)
    parse_prompt(parameters.get("prompt"))
    parse_max_age(parameters.get("max_age"))


async def _read(
    deployment: Deployment, parameters: Parameters, *, client: Client, redirect_uri: str
) -> AuthorizationRequest:
    """Run the checks, in order, whose refusals go to the client."""
    parameters.refuse_repeated()
    _check_response(parameters)
    _check_no_request_object(parameters)
    _check_no_linking(deployment, parameters, client=client)
    if "authorization_code" not in client.grant_types:
        raise OAuthError("unauthorized_client", "this client isn't allowed to use the authorization code grant")
    challenge = check_challenge(parameters.get("code_challenge"), parameters.get("code_challenge_method"))
    scope = parameters.get("scope")
    nonce, state = parameters.get("nonce"), parameters.get("state")
    if len(nonce or "") > _NONCE_LIMIT or len(state or "") > _STATE_LIMIT:
        raise OAuthError("invalid_request", "nonce or state is too long")
    dpop_jkt = parameters.get("dpop_jkt")
    if dpop_jkt is not None and not _THUMBPRINT.fullmatch(dpop_jkt):
        raise OAuthError("invalid_request", "dpop_jkt isn't the SHA-256 thumbprint of a key (RFC 9449 §10)")
    named = resources.named_resource(deployment, parameters, client=client)
    resource = await resources.known_resource(deployment, named, client=client)
    return AuthorizationRequest(
        client_id=client.id,
        redirect_uri=redirect_uri,
        challenge=challenge,
        scopes=choose_scopes(
            None if scope is None else parse_scope(scope),
            client=client,
            api_scopes=await resources.api_scopes(deployment, resource),
            ordinary=resources.ordinary_scopes(deployment, resource),
        )
        | implied_scopes(deployment, client),
        resource=resource,
        state=state,
        nonce=nonce,
        dpop_thumbprint=dpop_jkt,
        names_redirect_uri=parameters.get("redirect_uri") is not None,
        names_resource=named is not None,
    )


def implied_scopes(deployment: Deployment, client: Client) -> frozenset[str]:
    """The scopes that clients of Auth0's interface need but never request by name; the person sees them like other
    scopes."""
    is_exchanging = auth0.speaks_auth0(deployment, client) and TOKEN_EXCHANGE in client.grant_types
    return frozenset({EXCHANGE_SCOPE}) if is_exchanging else frozenset()


def _check_response(parameters: Parameters) -> None:
    if parameters.require("response_type") != "code":
        raise OAuthError("unsupported_response_type", "the only supported response type is code")
    if parameters.get("response_mode") not in {None, "query"}:
        raise OAuthError("invalid_request", "the only supported response_mode is query")


def _check_no_request_object(parameters: Parameters) -> None:
    """RFC 9101 §10: unverified parameters must not override anything; nothing is fetched."""
    for name in ("request", "request_uri"):
        if parameters.get(name) is not None:
            raise OAuthError(f"{name}_not_supported", "request objects aren't supported")


def _check_no_linking(deployment: Deployment, parameters: Parameters, *, client: Client) -> None:
    """Refuse Auth0's older way to connect an account: after only a sign-in, the client would think it worked."""
    if auth0.speaks_auth0(deployment, client) and parameters.get("requested_connection") is not None:
        raise OAuthError(
            "invalid_request",
            "accounts can't be linked by requested_connection: connect them at /me/v1/connected-accounts",
        )


async def _proceed(
    deployment: Deployment,
    request: Request,
    checked: AuthorizationRequest,
    *,
    client: Client,
    parameters: Parameters,
    pushed: PushedRequest | None,
) -> Response:
    """Answer immediately if the person approved exactly this before; otherwise keep the request and ask.

    A refusal leaves the pushed request usable.
    """
    prompt, max_age = parse_prompt(parameters.get("prompt")), parse_max_age(parameters.get("max_age"))
    browser = await password.current_session(deployment, request)
    session = None if browser is None else browser[0]
    wanted = with_sign_in_rule(checked, session, prompt=prompt, max_age=max_age, now=deployment.now())
    if browser is not None and wanted.accepts(browser[0]):
        pending = _pending_from("", wanted, client)
        is_answered = not (wanted.asks_always or lacks_proof(deployment, wanted.resource, session=browser[0]))
        if is_answered and await find_consent(deployment, pending, user=browser[1]) is not None:
            handle = await _keep(deployment, wanted, pushed)
            try:
                return go(await approve(deployment, handle, user=browser[1], session=browser[0], scopes=wanted.scopes))
            except SessionEnded as error:
                raise OAuthError("login_required", "the user has just signed out") from error
        if "none" in prompt:
            raise OAuthError("consent_required", "the user's consent is required")
    elif "none" in prompt:
        raise OAuthError("login_required", "the user isn't signed in, or signed in too long ago")
    if session is None and not await may_wait(deployment, address_of(request)):
        return _refuse_busy(request)
    return go(f"/consent?request={await _keep(deployment, wanted, pushed)}")


def _refuse_busy(request: Request) -> Response:
    title, message = "Too many requests", "Too many agents are waiting for a sign-in from this address."
    text = f"{message} Sign in, or wait ten minutes, then start again from the agent."
    response = error_page(request, title, text, status_of("too_many_requests"))
    response.headers["retry-after"] = str(REQUEST_LIFETIME)
    return response


async def may_wait(deployment: Deployment, address: str) -> bool:
    """Count a request without a signed-in user; False if too many from this address, or from all, already wait.

    The total is far above normal use, and limits how much data a flood from many addresses can store.
    """
    most, now = deployment.settings.sign_in.waiting_requests_per_address, deployment.now()
    total = partial(limits.spend, bucket="authorize", limit=_ADDRESSES * most, window=REQUEST_LIFETIME, now=now)
    own = partial(
        limits.spend, bucket=f"authorize:{counting_key(address)}", limit=most, window=REQUEST_LIFETIME, now=now
    )
    async with deployment.database.transaction() as transaction:
        if not await total(transaction):
            return False
        if await own(transaction):
            return True
        await total(transaction, cost=-1)  # an address at its limit doesn't use up the limit of others
        return False


async def _keep(deployment: Deployment, wanted: AuthorizationRequest, pushed: PushedRequest | None) -> str:
    async with deployment.database.transaction() as transaction:
        if pushed is not None:
            await pushed_requests.use_up(deployment, transaction, pushed)
        return await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.AUTHORIZATION,
            payload=payload_of(wanted),
            lifetime=REQUEST_LIFETIME,
            now=deployment.now(),
            client_id=wanted.client_id,
        )


def _pending_from(
    handle: str, wanted: AuthorizationRequest, client: Client, *, session: bytes | None = None
) -> PendingAuthorization:
    return PendingAuthorization(
        handle=handle,
        client=client,
        redirect_uri=wanted.redirect_uri,
        redirect_host=redirect_host(wanted.redirect_uri) if wanted.device is None else "",
        scopes=wanted.scopes,
        resource=wanted.resource,
        warnings=_warnings(client, wanted.redirect_uri),
        asks_always=wanted.asks_always,
        wanted=wanted,
        session=session,
    )


def _warnings(client: Client, redirect_uri: str) -> tuple[str, ...]:
    """Warnings for the person before they approve."""
    warnings: list[str] = []
    if client.kind is ClientKind.METADATA and is_loopback_only(client):
        warnings.append(
            "Any program on this computer can claim to be this agent. Continue only if you just started it."
        )
    if client.kind is ClientKind.DYNAMIC:
        warnings.append("This agent registered itself, so its name isn't verified.")
    if redirect_uri and not redirect_uri.startswith(("https:", "http:")):
        warnings.append("The answer goes to an app installed on this computer.")
    return tuple(warnings)


async def load_pending(deployment: Deployment, handle: str) -> PendingAuthorization | None:
    """The request that waits under this handle; None if it is unknown, used, or expired, or its client is gone."""
    ticket = await tickets.peek(
        deployment.database, deployment.keys, handle, purpose=TicketPurpose.AUTHORIZATION, now=deployment.now()
    )
    if ticket is None:
        return None
    wanted = stored_request(ticket.payload)
    client = await _standing_client(deployment, wanted)
    return None if client is None else _pending_from(handle, wanted, client, session=ticket.binding)


async def _standing_client(deployment: Deployment, wanted: AuthorizationRequest) -> Client | None:
    """The current client, if the redirect URI still belongs to it."""
    client = await clients.get_client(deployment.database, wanted.client_id)
    return client if client is not None and _may_answer(client, wanted) else None


def _may_answer(client: Client, wanted: AuthorizationRequest) -> bool:
    """Whether the answer would still reach this client: at its redirect URI, or on the device that polls for it."""
    return wanted.device is not None or redirect_matches(client.redirect_uris, wanted.redirect_uri)


def lacks_proof(deployment: Deployment, resource: str, *, session: Session) -> bool:
    """Whether a token for this resource could make changes that need a passkey on the pages, and none was used."""
    is_admin = resource == admin_resource(deployment.public_url)
    return is_admin and step_up.lacks_proof(deployment, session, "administration")


async def find_consent(deployment: Deployment, pending: PendingAuthorization, *, user: User) -> Grant | None:
    """This user's earlier consent for the same client, redirect URI, resource and scopes, if it may be reused."""
    found = await grants.find_consent(
        deployment.database,
        user_id=user.id,
        client_id=pending.client.id,
        redirect_uri=without_loopback_port(pending.redirect_uri),
        resource=pending.resource,
        scopes=pending.scopes,
    )
    if found is None or not trusts_consent(pending.client, pending.redirect_uri, given_at=found.created_at):
        return None
    return found


async def approve(
    deployment: Deployment,
    handle: str,
    *,
    user: User,
    session: Session,
    scopes: frozenset[str],
    store: Callable[[Transaction], Awaitable[object]] | None = None,
) -> str:
    """Record the approval; returns the URL that takes a new code to the client. `scopes` can only be a subset of the
    request.

    A polling device gets the code by polling; the URL is then the page that explains this. `store` stores the person's
    other answers in the same transaction; its refusals leave the request unanswered.

    Raises TransitionRefused if the request was already answered or has expired, or its client is gone; SessionEnded.
    """
    now = deployment.now()
    async with deployment.for_caller(SessionCaller(deployment, session)).transaction() as transaction:
        wanted = await _take_request(deployment, transaction, handle, session=session)
        client = await clients.get_client(transaction, wanted.client_id)
        if client is None or not _may_answer(client, wanted):
            raise TransitionRefused(
                "this agent is no longer registered", detail="the client or its redirect URI was removed"
            )
        if not wanted.accepts(session):
            raise TransitionRefused(
                "sign in again first", detail="the session is older than the client's max_age allows"
            )
        person = await users.get_user(transaction, user.id) or user  # an admin may have ended their role meanwhile
        current = await roles.with_groups(deployment, person, reader=transaction)
        if wanted.resource == admin_resource(deployment.public_url) and not current.role.audits:
            raise TransitionRefused("only an admin can allow this", detail="the person isn't an admin")
        if lacks_proof(deployment, wanted.resource, session=session):
            raise TransitionRefused(
                "confirm with your passkey first", detail="the session wasn't confirmed with a passkey"
            )
        granted = replace(
            wanted, scopes=wanted.scopes & scopes, auth_time=session.auth_time, is_strong=session.is_strong
        )
        if not granted.scopes:
            raise TransitionRefused("choose at least one permission, or deny", detail="the person selected no scope")
        code = await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.CODE,
            payload=payload_of(granted),
            lifetime=deployment.settings.tokens.code_lifetime if wanted.device is None else REQUEST_LIFETIME,
            now=now,
            user_id=user.id,
            client_id=client.id,
            binding=session.token_hash,
            secret=None if wanted.device is None else wanted.device.code,
        )
        await audit.append(transaction, _event("consent.given", granted, user_id=user.id), now=now)
        if store is not None:
            await store(transaction)
    if wanted.device is not None:
        return deployment.url(_DEVICE_ANSWERED)
    return _answer_url(deployment, granted.redirect_uri, {"code": code}, state=granted.state)


async def _take_request(
    deployment: Deployment, transaction: Transaction, handle: str, *, session: Session
) -> AuthorizationRequest:
    """Consume the waiting request for its answer. Raises TransitionRefused if this session may not answer it."""
    ticket = await tickets.consume(
        transaction, deployment.keys, handle, purpose=TicketPurpose.AUTHORIZATION, now=deployment.now()
    )
    wanted = stored_request(ticket.payload)
    if not _is_answerable(wanted, ticket.binding, session):
        raise TransitionRefused("enter the code that the agent shows", detail="another session entered the code")
    return wanted


async def deny(deployment: Deployment, handle: str, *, session: Session) -> str:
    """Record the denial; returns the URL that reports it to the client. Raises the refusals of `approve`."""
    now = deployment.now()
    async with deployment.for_caller(SessionCaller(deployment, session)).transaction() as transaction:
        wanted = await _take_request(deployment, transaction, handle, session=session)
        if wanted.device is not None:
            await tickets.issue(
                transaction,
                deployment.keys,
                purpose=TicketPurpose.DEVICE_REFUSAL,
                payload={},
                lifetime=REQUEST_LIFETIME,
                now=now,
                client_id=wanted.client_id,
                secret=wanted.device.code,
            )
        await audit.append(transaction, _event("consent.refused", wanted, user_id=session.user_id), now=now)
    if wanted.device is not None:
        return deployment.url(_DEVICE_ANSWERED)
    known = {"error": "access_denied", "error_description": "the user denied the request"}
    return _answer_url(deployment, wanted.redirect_uri, known, state=wanted.state)


def _event(kind: str, wanted: AuthorizationRequest, *, user_id: str) -> Event:
    return Event(
        kind=kind,
        outcome="ok" if kind == "consent.given" else "refused",
        user_id=user_id,
        client_id=wanted.client_id,
        details={
            "scopes": sorted(wanted.scopes),
            "resource": wanted.resource,
            **({"method": "device"} if wanted.device else {"redirect_host": redirect_host(wanted.redirect_uri)}),
        },
    )


def _answer_url(deployment: Deployment, redirect_uri: str, known: dict[str, str], *, state: str | None) -> str:
    """RFC 6749 §4.1.2 and RFC 9207 §2: `iss` in success and error alike, `state` exactly as received."""
    more = {} if state is None else {"state": state}
    return with_parameters(redirect_uri, {**known, **more, "iss": deployment.issuer})
