"""The token endpoint: one pipeline (client, grant type, scope, resource, response), which each grant fills in.

A grant returns what may be issued and can't skip a step of the pipeline. Other modules authenticate clients, mint
tokens, and store them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from server.deployment import Deployment
from server.http import cors
from server.http.addresses import address_of, network_of
from server.http.answers import json_answer
from server.oauth import device, dpop, service_accounts, wire
from server.oauth.authorization_request import AuthorizationRequest, stored_request
from server.oauth.backchannel import ciba_grant
from server.oauth.clients import authentication
from server.oauth.clients.rules import BACKCHANNEL_GRANT, DEVICE_GRANT, is_same_software
from server.oauth.enterprise import assertion_grant as assertions
from server.oauth.enterprise.assertions import BY_ASSERTION, JWT_BEARER, JWT_DPOP
from server.oauth.enterprise.rules import named_agents
from server.oauth.exchange import exchange
from server.oauth.exchange.recent import RepeatableRequest, RepeatedExchanges, question_of
from server.oauth.parameters import Parameters
from server.oauth.pkce import verifier_matches
from server.oauth.redirect_uris import without_loopback_port
from server.oauth.resources import hold_resource, offered_scopes, own_audiences
from server.oauth.rules import (
    CLIENT_CREDENTIALS,
    TOKEN_EXCHANGE,
    OAuthError,
    canonical_resource,
    own_resources,
)
from server.oauth.token_answers import answer_content
from server.oauth.token_rate import spend_request
from server.oauth.token_request import ExchangeAnswer, TokenGrant, TokenRequest
from server.oauth.tokens import MAX_LIFETIME
from server.oauth.wire import as_oauth_error, refusal_answer
from vault import clients, grants, users
from vault.audit import audit
from vault.records import Client, Event, Grant, Ticket, parse_scope
from vault.refusals import TransitionRefused, VaultError
from vault.storage.database import Reader
from vault.tokens import tokens as refresh_tokens
from vault.tokens.token_rules import RepeatVerdict

GrantHandler = Callable[[Deployment, TokenRequest], Awaitable[TokenGrant | ExchangeAnswer]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """Grants that another variant of this endpoint accepts in addition to or instead of ours, also as JSON.

    `grant_types`: for each additional grant, the grant type that the client must be registered for.
    """

    grants: Mapping[str, GrantHandler]
    grant_types: Mapping[str, str]


async def token(
    deployment: Deployment,
    request: Request,
    *,
    repeats: RepeatedExchanges,
    dialect: Dialect | None = None,
) -> Response:
    """A client, or a page of its own origins: RFC 6749, RFC 9068, RFC 9449; client credentials only for service
    accounts and agents that act for themselves; if registered, RFC 8628, OpenID CIBA, and token exchange (RFC 8693);
    RFC 7523 with a company's assertion.

    The origin is decided by `server.http.cors`.
    """
    question: RepeatableRequest | None = None
    if is_json := wire.is_json(request):
        form = await wire.read_json_parameters(request)
    else:
        body = await wire.read_form_body(request)
        question = question_of(request, body)
        if question is not None and (repeated := await repeats.answer(deployment, question)) is not None:
            return repeated
        form = wire.form_of(body)
    expected = (
        named_agents(deployment.settings.enterprise) if form.get("grant_type") in BY_ASSERTION else frozenset[str]()
    )
    client = await authentication.authenticate(deployment, request, form, expected=expected)
    try:
        asked, issue = await _issue(deployment, request, form, client=client, is_json=is_json, dialect=dialect)
        if isinstance(issue, ExchangeAnswer):
            if question is not None:
                await repeats.keep(deployment, question, client=client, exchanged=issue, now=asked.now)
            answer = json_answer(issue.content())
        else:
            content = await answer_content(deployment, issue, now=asked.now, key_thumbprint=asked.key_thumbprint)
            answer = json_answer(content)
            if form.get("grant_type") in _LET_IN:
                answer.background = BackgroundTask(clients.note_use, deployment.database, client, now=asked.now)
    except OAuthError as error:
        answer = refusal_answer(error)
    except VaultError as refusal:
        answer = refusal_answer(as_oauth_error(refusal))
    origin = request.headers.get("origin")
    if origin is not None:
        is_allowed = cors.may_read(deployment.settings, client, origin)
        answer.raw_headers.extend(cors.answer_headers(origin, is_allowed=is_allowed))
    return answer


async def _issue(
    deployment: Deployment,
    request: Request,
    form: Parameters,
    *,
    client: Client,
    is_json: bool,
    dialect: Dialect | None,
) -> tuple[TokenRequest, TokenGrant | ExchangeAnswer]:
    grant = _grant_type(form, client, is_json=is_json and dialect is None, dialect=dialect)
    asked = await _request_of(deployment, request, form, client)
    return asked, await grant(deployment, asked)


def _grant_type(form: Parameters, client: Client, *, is_json: bool, dialect: Dialect | None) -> GrantHandler:
    name = form.require("grant_type")
    if is_json and name != TOKEN_EXCHANGE:  # RFC 6749 §3.2; the exchange accepts both, for Auth0 clients
        raise OAuthError("invalid_request", "send the parameters as application/x-www-form-urlencoded")
    grant, needed = _GRANTS.get(name), name
    if dialect is not None and name in dialect.grants:
        grant, needed = dialect.grants[name], dialect.grant_types.get(name, name)
    if grant is None:
        raise OAuthError("unsupported_grant_type", "this grant type isn't supported")
    if needed not in client.grant_types and needed not in BY_ASSERTION:  # a company's rules name its clients
        raise OAuthError("unauthorized_client", "this client isn't allowed to use this grant type")
    return grant


async def _request_of(deployment: Deployment, request: Request, form: Parameters, client: Client) -> TokenRequest:
    scope, resource = form.get("scope"), form.get("resource")
    return TokenRequest(
        client=client,
        form=form,
        scopes=None if scope is None else parse_scope(scope),
        resource=None if resource is None else canonical_resource(resource, public_url=deployment.public_url),
        key_thumbprint=await _proved_key(deployment, request, client),
        now=deployment.now(),
        address=address_of(request),
    )


async def _proved_key(deployment: Deployment, request: Request, client: Client) -> str | None:
    """RFC 9449 §5. Mandatory for a client that registered `dpop_bound_access_tokens`."""
    sent = dpop.read_proof(request.headers)
    if sent is None:
        if deployment.settings.tokens.require_dpop or client.metadata.get("dpop_bound_access_tokens") is True:
            raise OAuthError("invalid_dpop_proof", "a DPoP proof is required")
        return None
    now = deployment.now()
    proof = dpop.check_proof(sent, method="POST", url=deployment.url(dpop.sent_path(request.scope)), now=now)
    authentication.check_rows(deployment, client, address=address_of(request))
    await dpop.spend(deployment, proof, now=now)
    return proof.thumbprint


# authorization_code (OAuth 2.1 §4.1.3) ----------------------------------------------------------------------------


async def _redeem_code(deployment: Deployment, asked: TokenRequest) -> TokenGrant:
    code, verifier = asked.form.require("code"), asked.form.get("code_verifier")

    def check(wanted: AuthorizationRequest) -> str:
        return _check_code(wanted, asked, verifier, public_url=deployment.public_url)

    return await _redeem(deployment, asked, code, check=check)


async def _redeem(
    deployment: Deployment, asked: TokenRequest, code: str, *, check: Callable[[AuthorizationRequest], str]
) -> TokenGrant:
    """A code works once. A request that doesn't match leaves it unused; a second redemption ends the tokens of the
    first.

    `check` returns the resource that the code is good for, or refuses. It also runs first for a second redemption.
    """

    def is_holder(ticket: Ticket) -> bool:
        try:
            check(stored_request(ticket.payload))
        except (OAuthError, TransitionRefused):
            return False
        return True

    try:
        async with grants.redeem_code(
            deployment.database, deployment.keys, code, is_holder=is_holder, now=asked.now
        ) as redemption:
            wanted = stored_request(redemption.ticket.payload)
            resource = check(wanted)
            user_id = redemption.ticket.user_id
            user = None if user_id is None else await users.get_user(redemption.transaction, user_id)
            if user is None or not user.has_agents:
                raise _invalid_code("the user was deleted or disabled")
            if not await hold_resource(deployment, redemption.transaction, resource):
                raise OAuthError("invalid_target", "this resource isn't known here anymore")
            scopes = wanted.scopes if asked.scopes is None else wanted.scopes & asked.scopes
            if not scopes:
                raise OAuthError("invalid_scope", "none of the requested scopes was granted")
            await offered_scopes(deployment, resource, scopes, reader=redemption.transaction)  # refuses before the use
            grant = await redemption.create_grant(
                user_id=user.id,
                client_id=asked.client.id,
                scopes=wanted.scopes,
                resource=resource,
                redirect_uri=without_loopback_port(wanted.redirect_uri),
                now=asked.now,
            )
            await grants.let_older_end(redemption.transaction, grant, lifetime=MAX_LIFETIME)
            refresh_token, lifetimes = None, deployment.refresh_lifetimes
            if "refresh_token" in asked.client.grant_types:
                refresh_token = await refresh_tokens.issue_refresh_token(
                    redemption.transaction,
                    grant,
                    scopes=wanted.scopes,
                    resource=resource,
                    now=asked.now,
                    lifetimes=lifetimes,
                    key_thumbprint=asked.key_thumbprint if asked.client.is_public else None,
                    network=network_of(asked.address),
                )
            is_left_alone = await _lets_access_end(deployment, redemption.transaction, asked, user_id=user.id)
            await audit.append(redemption.transaction, _event("grant.created", grant), now=asked.now)
    except TransitionRefused as refusal:
        raise _invalid_code(refusal.detail) from refusal
    ends_at = None if refresh_token is None else lifetimes.first_end(asked.now)
    return TokenGrant(
        grant,
        scopes,
        resource,
        refresh_token,
        ends_at,
        wanted.nonce,
        wanted.auth_time,
        wanted.is_strong,
        is_left_alone=is_left_alone,
    )


async def _lets_access_end(deployment: Deployment, reader: Reader, asked: TokenRequest, *, user_id: str) -> bool:
    """Whether the person's last registration of the same software let its access token expire and registered again.

    It would do so again each time. The longer token gives it nothing that it couldn't get by registering without the
    grant `refresh_token`, and the grant is still read on every call.
    """
    ended = asked.now - deployment.settings.tokens.access_lifetime
    client = asked.client
    for former, refreshes in await clients.list_former(
        reader, user_id, name=client.name, besides=client.id, before=ended
    ):
        if is_same_software(former, client):
            return not refreshes
    return False


def _invalid_code(detail: str) -> OAuthError:
    return OAuthError(
        "invalid_grant", "the authorization code is invalid, expired, used, or from another request", detail=detail
    )


def _check_code(wanted: AuthorizationRequest, asked: TokenRequest, verifier: str | None, *, public_url: str) -> str:
    """Check that the code belongs to this client, redirect URI, verifier, and key; returns the code's resource."""
    redirect_uri = asked.form.get("redirect_uri")
    if wanted.client_id != asked.client.id:
        raise _invalid_code("the code was issued to another client")
    if wanted.device is not None:
        raise _invalid_code("the code can be redeemed only by its device code")
    if redirect_uri != wanted.redirect_uri and (redirect_uri is not None or wanted.names_redirect_uri):
        raise _invalid_code("redirect_uri isn't the one of the authorization request")
    if verifier is None or not verifier_matches(verifier, wanted.challenge):
        raise _invalid_code("code_verifier doesn't match code_challenge")
    if wanted.dpop_thumbprint is not None and wanted.dpop_thumbprint != asked.key_thumbprint:
        raise _invalid_code("the code is bound to another DPoP key")
    return _check_resource(wanted, asked, public_url=public_url)


def _check_resource(wanted: AuthorizationRequest, asked: TokenRequest, *, public_url: str) -> str:
    if asked.resource is None or asked.resource == wanted.resource:
        return wanted.resource
    ours = own_resources(public_url)
    # A client that named no resource before may name the endpoint it calls now: they are one server.
    if not wanted.names_resource and wanted.resource in ours and asked.resource in ours:
        return asked.resource
    raise OAuthError("invalid_target", "the code wasn't issued for this resource")


# device_code (RFC 8628 §3.4) --------------------------------------------------------------------------------------


async def _redeem_device_code(deployment: Deployment, asked: TokenRequest) -> TokenGrant:
    """`device` reports pending, refused and expired; once the person has approved, it is an authorization code."""
    device_code = asked.form.require("device_code")
    code = await device.answered_code(deployment, asked.client, device_code, now=asked.now)

    def check(wanted: AuthorizationRequest) -> str:  # the code was made with the device code, for its client
        return _check_resource(wanted, asked, public_url=deployment.public_url)

    return await _redeem(deployment, asked, code, check=check)


# refresh_token (OAuth 2.1 §4.3) -----------------------------------------------------------------------------------


async def refresh(deployment: Deployment, asked: TokenRequest) -> TokenGrant:
    """Rotate the refresh token, unless its API has none of the scopes anymore."""
    await _check_scopes(deployment, asked)
    return await rotate(deployment, asked)


async def _check_scopes(deployment: Deployment, asked: TokenRequest) -> None:
    """Check what the answer checks again, because a refused request may not use up the token. Raises OAuthError."""
    if own_audiences(deployment).issuperset(asked.client.resources):  # it's bound to no API with scopes of its own
        return
    presented = asked.form.require("refresh_token")
    found = await refresh_tokens.find_live(deployment.database, presented, now=asked.now)
    if found is None or found[0].client_id != asked.client.id:
        return  # `rotate` refuses it, perhaps as reuse, or repeats its successor, which uses nothing up
    stored, live = found
    scopes = stored.scopes & live.grant.scopes if asked.scopes is None else asked.scopes
    await offered_scopes(deployment, asked.resource or stored.resource, scopes)


async def rotate(deployment: Deployment, asked: TokenRequest) -> TokenGrant:
    """Rotate the refresh token; `vault.tokens.token_rules` decides about a used token that is presented again."""
    wanted = refresh_tokens.RefreshRequest(
        client_id=asked.client.id,
        scopes=asked.scopes,
        resource=asked.resource,
        key_thumbprint=asked.key_thumbprint,
        network=network_of(asked.address),
        is_authenticated=not asked.client.is_public,
    )

    def admit(grant: Grant) -> None:
        spend_request(deployment, user_id=grant.user_id, client_id=grant.client_id)

    rotation = await refresh_tokens.rotate(
        deployment.database,
        asked.form.require("refresh_token"),
        request=wanted,
        now=asked.now,
        lifetimes=deployment.refresh_lifetimes,
        admit=admit,
        event_of=lambda accepted: _refresh_event(accepted, network=network_of(asked.address)),
    )
    return TokenGrant(
        rotation.grant,
        rotation.scopes,
        rotation.resource,
        rotation.refresh_token,
        refresh_expires_at=rotation.expires_at,
    )


def _refresh_event(rotation: refresh_tokens.AcceptedRefresh, *, network: str) -> Event:
    repetition = rotation.repetition
    if repetition is None:
        return _event("token.refreshed", rotation.grant)
    event = _event("token.repeated", rotation.grant)
    facts = {
        "spent_seconds_ago": repetition.age,
        "generations": repetition.generations,
        "network": network,
        "moved": repetition.verdict is RepeatVerdict.MOVED,
    }
    return replace(event, details={**event.details, **facts})


def _event(kind: str, grant: Grant) -> Event:
    return Event(
        kind=kind,
        user_id=grant.user_id,
        client_id=grant.client_id,
        details={"grant": grant.id, "scopes": sorted(grant.scopes), "resource": grant.resource},
    )


_LET_IN: Final = frozenset({"authorization_code", DEVICE_GRANT})  # noted as uses after the answer
_GRANTS: Final[dict[str, GrantHandler]] = {
    "authorization_code": _redeem_code,
    "refresh_token": refresh,
    DEVICE_GRANT: _redeem_device_code,
    BACKCHANNEL_GRANT: ciba_grant.redeem,
    CLIENT_CREDENTIALS: service_accounts.issue_token,
    JWT_BEARER: assertions.redeem,
    JWT_DPOP: assertions.redeem,
    TOKEN_EXCHANGE: exchange.exchange,
}
