"""Token exchange (RFC 8693): the same `vault.exchange` that tools use, over HTTP, for software other than MCP clients.

`subjects`, `workers`, `issuers` and `targets` verify subject, actor and target; `release` decides what leaves the
vault. A token gets only the scopes that all four allow: the request, this agent's delegation, the account's grant, and
the operator's limit. A request for more is refused with the missing scopes; nothing is dropped or added silently.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from providers.definitions.model import Provider
from server.connecting import approvals as questions
from server.connecting.agent_refusals import plain
from server.deployment import Deployment
from server.oauth import tokens
from server.oauth.exchange import issuers, release, subjects, targets, workers
from server.oauth.exchange.refusals import as_answer
from server.oauth.exchange.subjects import Limits, Subject, refusal
from server.oauth.exchange.targets import OwnTarget, UpstreamTarget
from server.oauth.resources import known_resource
from server.oauth.rules import SCOPES, TOKEN_EXCHANGE, OAuthError
from server.oauth.token_rate import spend_request
from server.oauth.token_request import ACCESS_TOKEN, JWT, REFRESH_TOKEN, ExchangeAnswer, ReleasedToken, TokenRequest
from server.oauth.wire import told_error
from server.signatures import jose
from vault import connections, handles, revoked_tokens, shared_connections
from vault.approvals import approvals
from vault.approvals.approvals import ToolCall
from vault.audit import audit
from vault.audit.released_tokens import TokenRelease
from vault.exchange.exchange import ExchangeRequest, UpstreamToken, thumbprint
from vault.exchange.exchange import exchange as exchange_upstream
from vault.records import Client, Event, Narrowing, Principal, format_scope
from vault.refusals import ApprovalRequired, GrantEnded, VaultError
from vault.scopes import expand
from vault.upstream import Downscope

PUBLIC_LIFETIME: Final = 300  # longest life of a public client's handle, in seconds
APPROVAL_INTERVAL: Final = 5  # seconds between attempts at an exchange that the person is asked about
SHORTEST: Final = 5  # seconds; a token with less time left counts as expired
_SCOPE: Final = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]{1,4096}")  # RFC 6749 §3.3


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One exchange after everything about its caller was verified."""

    asked: TokenRequest
    subject: Subject
    principal: Principal


async def exchange(deployment: Deployment, asked: TokenRequest) -> ExchangeAnswer:
    """The grant `urn:ietf:params:oauth:grant-type:token-exchange`."""
    check_client(deployment, asked.client)
    if asked.form.get("requested_token_type") not in {None, ACCESS_TOKEN}:
        raise OAuthError("invalid_request", "the only supported requested_token_type is access_token")
    if (scope := asked.form.get("scope")) is not None and (not asked.scopes or _SCOPE.fullmatch(scope) is None):
        raise OAuthError("invalid_scope", "scope must be a list of names separated by single spaces")
    subject = await _subject(deployment, asked)
    if subject.expires_at is not None and subject.expires_at - asked.now < SHORTEST:
        raise refusal("the subject token expires too soon")
    actor = await subjects.actor_of(deployment, asked, subject)
    target = await targets.resolve(
        deployment,
        audience=asked.form.get("audience"),
        resource=asked.form.get("resource"),
        user_id=subject.user_id,
    )
    if isinstance(target, OwnTarget) and asked.client.is_public:
        raise OAuthError("invalid_target", "a public client can exchange its token only for handles")
    principal = await subjects.principal_of(deployment, asked, subject, actor=actor)
    made = _Exchange(asked, subject, principal)
    spend_request(deployment, user_id=principal.user_id, client_id=principal.client_id)
    if isinstance(target, OwnTarget):
        return await _own(deployment, made, target)
    return await _upstream(deployment, made, target)


def check_client(deployment: Deployment, client: Client) -> None:
    """Refuse a client that may not exchange tokens. Raises OAuthError."""
    if TOKEN_EXCHANGE not in client.grant_types:
        raise OAuthError(
            "unauthorized_client",
            "this client isn't registered for token exchange: register the grant type, or ask an admin to allow it",
        )
    if client.is_public and deployment.settings.exchange.confidential_only:
        raise OAuthError(
            "unauthorized_client",
            "public clients can't exchange tokens here: use a confidential client, or ask an admin to allow it",
        )


def _account(asked: TokenRequest) -> str | None:
    """The requested account; `login_hint` is Auth0's name for it."""
    account, hint = asked.form.get("account"), asked.form.get("login_hint")
    if account is not None and hint is not None and account != hint:
        raise OAuthError("invalid_request", "account and login_hint name different accounts")
    return account or hint


async def _subject(deployment: Deployment, asked: TokenRequest) -> Subject:
    token, kind = asked.form.require("subject_token"), asked.form.require("subject_token_type")
    if asked.client.is_public and kind != ACCESS_TOKEN:
        raise refusal(
            "a public client presented a token that isn't its own access token",
            "a public client can present only its own access token",
        )
    if kind == ACCESS_TOKEN:
        return await subjects.access_token(deployment, asked, token)
    if kind == REFRESH_TOKEN:
        return await subjects.refresh_token(deployment, asked, token)
    if kind != JWT:
        raise refusal("type", "this subject_token_type isn't supported")
    try:
        issuer = jose.unverified_claims(token).get("iss")
    except jose.TokenMalformed as error:
        raise refusal(str(error)) from error
    if issuer == asked.client.id:
        return await workers.verify(deployment, asked, token)
    return await issuers.verify(deployment, asked, token, unverified_issuer=issuer)


# On behalf of: an access token of ours for another API --------------------------------------------------------------


async def _own(deployment: Deployment, made: _Exchange, target: OwnTarget) -> ExchangeAnswer:
    """An RFC 9068 token for an API that the client may call, about the person, with the actor chain."""
    asked, subject, principal = made.asked, made.subject, made.principal
    if subject.scopes is None:
        raise OAuthError("invalid_target", "a worker's token works only for accounts at providers")
    if revoked_tokens.is_deep(subject.token_id):
        raise refusal(
            "the subject token comes from too many exchanges",
            "the subject token was exchanged too often: use the original token",
        )
    grant = await subjects.live_grant(deployment, principal)
    await known_resource(deployment, target.resource, client=asked.client)
    available = subject.scopes & (SCOPES | target.scopes)
    wanted = available - {"openid", "offline_access"} if asked.scopes is None else asked.scopes
    if missing := wanted - available:
        raise _too_wide(missing, "the subject token, or that API, does not have")
    if not wanted:
        raise OAuthError("invalid_scope", "the subject token has no scope of this API")
    token, lifetime = tokens.mint(
        deployment,
        grant,
        scopes=wanted,
        audience=target.resource,
        now=asked.now,
        key_thumbprint=asked.key_thumbprint,
        actors=principal.actors,
        expires_at=subject.expires_at,
        parent=subject.token_id,
    )
    event = own_token_event(principal, subject, token, scopes=wanted, resource=target.resource)
    await deployment.activity.record(event)
    return ExchangeAnswer(token, scopes=wanted, expires_in=lifetime, token_type=_token_type(asked))


def own_token_event(
    principal: Principal, subject: Subject, token: str, *, scopes: frozenset[str], resource: str
) -> Event:
    """The event of a token of ours that an exchange issued."""
    return Event(
        "token.issued",
        user_id=principal.user_id,
        client_id=principal.client_id,
        details={
            "resource": resource,
            "scopes": format_scope(scopes),
            "grant": principal.grant_id,
            "actors": list(principal.actors),
            "subject": subject.kind,
            **subject.details,
            "token_thumbprint": thumbprint(token),
        },
    )


def _too_wide(missing: frozenset[str], who: str) -> OAuthError:
    words = format_scope(missing)
    return OAuthError("invalid_scope", f"{who} {words}", members={"missing_scope": words})


def _token_type(asked: TokenRequest) -> str:
    return "Bearer" if asked.key_thumbprint is None else "DPoP"


# Upstream: a token of an account at a provider, or a handle for it -----------------------------------------------


async def _upstream(deployment: Deployment, made: _Exchange, target: UpstreamTarget) -> ExchangeAnswer:
    asked, subject, provider = made.asked, made.subject, target.provider
    if provider.is_remote:  # its token reaches every tool, including those that nobody accepted
        raise OAuthError("invalid_target", f"an account at the MCP server {provider.title} is used by its tools only")
    request = ExchangeRequest(
        made.principal,
        provider.name,
        asked.scopes or target.scopes,
        account=_account(asked),
        purpose=asked.purpose,
        connection_id=target.connection_id,
        item=target.item,
        details={"subject": subject.kind, **subject.details},
        event=lambda token: _release_event(made, target, token),
        is_kept=_is_plain(deployment, made),
        goes_out_whole=lambda connection_id: _policy(made, target, connection_id) is release.ReleasePolicy.FULL,
    )
    if not asked.needs_handle and release.ReleasePolicy.FULL in release.policies_of(asked.client).values():
        request = replace(request, call=_release_call(asked))
    if target.item is not None:
        early = release.policy_of(asked.client, provider=provider.name, connection_id=target.connection_id or "")
        if early is release.ReleasePolicy.PROXY:
            raise _not_one_thing()
    if subject.limits is not None:
        request = await _recorded_limits(deployment, made, request, subject.limits)
    try:
        token = await exchange_upstream(request, vault=deployment.vault, now=asked.now)
    except ApprovalRequired as refusal:
        await _check_narrows(deployment, made, refusal)
        raise await _ask_person(deployment, made, refusal, request.call) from refusal
    except VaultError as refusal:
        raise await as_answer(
            deployment, refusal, made.principal, client_name=asked.client.name, account=request.account
        ) from refusal
    if _carries_more(made, target, token):
        raise _not_narrow(provider.title)
    narrowing = _outside(made, target, token)
    if not token.scopes:
        raise OAuthError("invalid_scope", "this agent has no usable permissions left for this account")
    if narrowing is None and target.item is not None:
        raise _not_one_thing()
    if narrowing is None and asked.needs_token:
        raise OAuthError("access_denied", _why_no_token(provider, asked.client))
    if narrowing is None:
        return await _handle(deployment, made, target, token)
    who = made.principal
    released = TokenRelease(
        asked.client.id, who.grant_id, who.user_id, token.connection_id, thumbprint(token.value), token.expires_at
    )
    try:
        await deployment.released.note(deployment.database, released, now=asked.now)
    except GrantEnded as refusal:
        raise await as_answer(deployment, refusal, who, client_name=asked.client.name) from refusal
    return _release(deployment, made, target, token, narrowing=narrowing)


def _why_no_token(provider: Provider, client: Client) -> str:
    """Why the client gets no token, and what it can do; a credential with several parts is never released."""
    by_act = f"ask an admin to run token-vault clients release {client.id} {provider.name} full"
    if provider.credential is None:
        return f"this client can't receive a token of {provider.name}: {by_act}"
    inside = (
        f"the credential of {provider.name} doesn't leave the vault: exchange without demanding a token, and call the "
        "API through the proxy with the handle"
    )
    return inside if provider.is_composed else f"{inside}; or {by_act}"


def _release_call(asked: TokenRequest) -> ToolCall:
    """The scopes to ask the person about, if they approve each use of something that the account's whole token can
    do."""
    wanted = "" if asked.scopes is None else format_scope(asked.scopes)
    return ToolCall(approvals.RELEASE, lambda: {"scopes": wanted, "token": release.ReleasePolicy.FULL.value})


async def _ask_person(
    deployment: Deployment, made: _Exchange, refusal: ApprovalRequired, call: ToolCall | None
) -> OAuthError:
    """Ask the person about this exchange if the account's own token is released; otherwise nobody can be asked."""
    client, told = made.asked.client, plain(refusal)
    policy = release.policy_of(client, provider=refusal.provider, connection_id=refusal.connection_id)
    if call is None or policy is not release.ReleasePolicy.FULL:
        return told_error(told)
    asked, _ = await questions.ask(deployment, principal=made.principal, refusal=refusal, call=call)
    link = questions.link_of(deployment, asked)
    if link is None:
        return OAuthError("refused_by_person", "the person denied this a moment ago", members=told.members)
    return OAuthError(
        "authorization_pending",
        f"{told.description} Repeat this exchange until the person has answered.",
        headers={"Retry-After": str(APPROVAL_INTERVAL)},
        members={**told.members, "approval_uri": link.url, "interval": APPROVAL_INTERVAL},
    )


def _is_plain(deployment: Deployment, made: _Exchange) -> bool:
    """Whether only the client, its own grant, and the accounts matter: no proof, no other actor, and no address."""
    form, subject = made.asked.form, made.subject
    return (
        subject.kind == "access_token"
        and not subject.derived_from
        and made.asked.key_thumbprint is None
        and deployment.catalog.get(form.get("audience") or "") is not None
        and not any(name in form.values for name in ("actor_token", "client_assertion", "resource"))
    )


def _policy(made: _Exchange, target: UpstreamTarget, connection_id: str) -> release.ReleasePolicy:
    if made.asked.needs_handle or target.provider.is_composed:
        return release.ReleasePolicy.PROXY
    return release.policy_of(made.asked.client, provider=target.provider.name, connection_id=connection_id)


def _outside(made: _Exchange, target: UpstreamTarget, token: UpstreamToken) -> Narrowing | None:
    """How the token's scopes are enforced outside the vault; None if it stays inside."""
    policy = _policy(made, target, token.connection_id)
    narrowing = release.released_narrowing(policy, token.narrowing, expires=token.expires_at is not None)
    if narrowing is Narrowing.FULL and token.is_asked_beyond and not token.approval:
        return None  # permissions that need the person's approval would be released with it
    return narrowing


def _carries_more(made: _Exchange, target: UpstreamTarget, token: UpstreamToken) -> bool:
    """Whether the token could do more outside than the client accepts."""
    narrowing, wanted = _outside(made, target, token), made.asked.scopes
    if not made.asked.needs_narrow or wanted is None or narrowing is None:
        return False
    return not _carried_scopes(token, narrowing) <= wanted


async def _check_narrows(deployment: Deployment, made: _Exchange, refusal: ApprovalRequired) -> None:
    """Refuse before asking the person if the client wouldn't accept the token. Raises OAuthError."""
    wanted, provider = made.asked.scopes, deployment.catalog.provider(refusal.provider)
    if not made.asked.needs_narrow or wanted is None:
        return
    if deployment.vault.policies[provider.name].downscope is not Downscope.NONE:
        return
    held = await shared_connections.usable(
        deployment.database, refusal.connection_id, user_id=made.principal.user_id, now=deployment.now()
    )
    if held is not None and not held.scopes <= wanted:
        raise _not_narrow(provider.title)


def _not_narrow(provider: str) -> OAuthError:
    return OAuthError("invalid_scope", f"{provider} can't limit a token to these scopes: leave scope out")


def _release_event(made: _Exchange, target: UpstreamTarget, token: UpstreamToken) -> Event | None:
    """The event that is committed before a provider's token is released; a handle's event is written with the
    handle."""
    narrowing = _outside(made, target, token)
    if narrowing is None or not token.scopes or _carries_more(made, target, token):
        return None
    return _released_event(made, target, token, narrowing)


def _released_event(made: _Exchange, target: UpstreamTarget, token: UpstreamToken, narrowing: Narrowing) -> Event:
    carried = format_scope(_carried_scopes(token, narrowing))
    return _event(
        "token.released",
        made,
        target,
        token,
        narrowing=narrowing.value,
        carried=carried,
        token_thumbprint=thumbprint(token.value),
    )


def _carried_scopes(token: UpstreamToken, narrowing: Narrowing) -> frozenset[str]:
    """What the token itself can do."""
    return token.scopes if narrowing is Narrowing.UPSTREAM else token.granted


def _not_one_thing() -> OAuthError:
    return OAuthError(
        "invalid_target", "a handle can't be limited to a single item: set resource to the API's base address"
    )


async def _recorded_limits(
    deployment: Deployment, made: _Exchange, request: ExchangeRequest, limits: Limits
) -> ExchangeRequest:
    """Like `_within_limits`, but records the refusal as an event, like a worker's other refusals."""
    try:
        return await _within_limits(deployment, request, limits)
    except OAuthError:
        event = Event(
            "worker.refused",
            outcome="refused",
            user_id=made.principal.user_id,
            client_id=made.principal.client_id,
            details={"reason": "limits", "provider": request.provider, "address": made.asked.address},
        )
        await deployment.activity.record_refusal(event)
        raise


async def _within_limits(deployment: Deployment, request: ExchangeRequest, limits: Limits) -> ExchangeRequest:
    """The request cut to the accounts that the operator listed for this client; wider scopes are refused."""
    provider = deployment.catalog.provider(request.provider)
    allowed = limits.scopes & frozenset(provider.scopes)
    wanted = request.scopes or allowed
    if missing := wanted - expand(allowed, provider.covers):
        raise _too_wide(
            missing,
            "this worker isn't allowed to use this account: ask an admin to add it with token-vault "
            "clients add --worker-connection",
        )
    if not wanted:
        raise OAuthError(
            "invalid_scope",
            f"this worker has no allowed scope of {provider.name}: ask an admin to add one with --worker-scope",
        )
    request = replace(request, scopes=wanted)
    if provider.name in limits.connections:
        return request
    held = await connections.find(
        deployment.database, request.principal.user_id, provider=provider.name, account=request.account
    )
    listed = [one.id for one in held if one.id in limits.connections and request.connection_id in {None, one.id}]
    if len(listed) != 1:
        raise OAuthError("invalid_target", "this worker isn't allowed to use this account, or several match")
    (connection_id,) = listed
    return replace(request, account=None, connection_id=connection_id)


async def _handle(
    deployment: Deployment, made: _Exchange, target: UpstreamTarget, token: UpstreamToken
) -> ExchangeAnswer:
    """A handle for the proxy: the provider's token stays inside."""
    asked, principal = made.asked, made.principal
    api = target.api or targets.api_for(target.provider, token.scopes)
    if api is None:
        raise OAuthError("invalid_target", f"{target.provider.name} has no API that the proxy can reach")
    lifetime = deployment.settings.exchange.handle_lifetime
    if asked.client.is_public:
        lifetime = min(lifetime, PUBLIC_LIFETIME)
    if made.subject.expires_at is not None:
        lifetime = min(lifetime, made.subject.expires_at - asked.now)
    async with deployment.transaction() as transaction:
        value = await handles.issue(
            transaction,
            principal=principal,
            connection_id=token.connection_id,
            provider=target.provider.name,
            scopes=token.scopes,
            key_thumbprint=asked.key_thumbprint,
            expires_at=asked.now + lifetime,
            now=asked.now,
        )
        event = _event(
            "handle.issued",
            made,
            target,
            token,
            narrowing=token.narrowing.value,
            expires_in=lifetime,
            token_thumbprint=thumbprint(value),
        )
        await audit.append(transaction, event, now=asked.now)
    return ExchangeAnswer(
        value,
        scopes=token.scopes,
        expires_in=lifetime,
        token_type=_token_type(asked),
        narrowing=token.narrowing.value,
        api_base_url=deployment.url(f"/proxy/{token.connection_id}/{api}"),
    )


def _release(
    deployment: Deployment, made: _Exchange, target: UpstreamTarget, token: UpstreamToken, *, narrowing: Narrowing
) -> ExchangeAnswer:
    """The provider's own token.

    The provider sets its lifetime; the client may not use it longer than the subject token, and a token without an end
    no longer than a handle.
    """
    ends = [end for end in (token.expires_at, made.subject.expires_at) if end is not None]
    lifetime = deployment.settings.exchange.handle_lifetime
    expires_in = release.seconds_left(*ends, now=made.asked.now) if ends else lifetime
    kept: ReleasedToken | None = None
    if token.basis is not None and not token.approval:
        kept = ReleasedToken(token.basis, lambda: _released_event(made, target, token, narrowing), token.expires_at)
    carried = _carried_scopes(token, narrowing)
    return ExchangeAnswer(
        token.value,
        scopes=carried,
        expires_in=expires_in,
        narrowing=narrowing.value,
        release=kept,
        included=token.granted & expand(carried, target.provider.covers),
    )


def _event(kind: str, made: _Exchange, target: UpstreamTarget, token: UpstreamToken, **details: object) -> Event:
    return Event(
        kind,
        user_id=made.principal.user_id,
        client_id=made.principal.client_id,
        connection_id=token.connection_id,
        details={
            "provider": target.provider.name,
            "account": token.label,
            "scopes": format_scope(token.scopes),
            "purpose": made.asked.purpose,
            "grant": made.principal.grant_id,
            "actors": list(made.principal.actors),
            "subject": made.subject.kind,
            **({} if target.item is None else {"item": target.item}),
            **made.subject.details,
            **details,
        },
    )
