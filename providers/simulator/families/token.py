"""The token endpoint of a family mode: codes, refresh tokens and, where the mode has it, RFC 8693."""

from __future__ import annotations

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator import token_endpoint
from providers.simulator.accounts import RegisteredClient
from providers.simulator.calls import SimulatedCall
from providers.simulator.company.assertions import AssertionInvalid, redeem
from providers.simulator.families.answers import refusal, success, tokens_answer
from providers.simulator.families.requests import (
    TokenRequestRefused,
    asked_scopes,
    face_name,
    identify,
    token_call,
)
from providers.simulator.families.scoped_tokens import Derivation, DerivationRefused, derive
from providers.simulator.modes.model import Mode
from providers.simulator.state.authorize import CodeRefused
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.state.tokens import PresentedTokenRefused, RefreshAnswer
from providers.simulator.wire import ClientRefused

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"
_LONG = 60 * 86400  # seconds that a long-lived token lives
_CLIENT_ERRORS = {
    "missing": (400, "invalid_request", "Who asks is missing."),
    "unknown": (401, "invalid_client", "No such client."),
    "secret": (401, "invalid_client", "The client secret is wrong."),
    "two_methods": (400, "invalid_request", "More than one client authentication method."),
    "method": (401, "invalid_client", "The client has to authenticate in another way."),
}


def endpoint_name(call: SimulatedCall) -> str:
    """The name of this request in faults and books."""
    text = " ".join(str(value) for value in (*call.arguments.values(), *call.query.values()))
    if EXCHANGE in text:
        return "token.exchange"
    if JWT_BEARER in text:
        return "token.assertion"
    return "token.refresh" if "refresh" in text.split() or "refresh_token" in text.split() else "token.code"


def token(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """RFC 6749 §3.2, by the rules of the mode in the address."""
    name = face_name(call)
    mode = sandbox.mode(name)
    try:
        call = token_call(mode, call)
        grant_type = call.text("grant_type")
        is_refresh = grant_type == "refresh_token"
        allowed = mode.client_auth
        if is_refresh and mode.refresh_client_auth is not None:
            allowed = mode.refresh_client_auth
        client, method = identify(call, sandbox.clients, allowed=allowed)
    except TokenRequestRefused as refused:
        _record_refused(sandbox, call, name, refused.error)
        return refusal(mode, refused.error, refused.description)
    except ClientRefused as refused:
        status, error, description = _CLIENT_ERRORS[refused.reason]
        _record_refused(sandbox, call, name, f"client_{refused.reason}")
        return refusal(mode, error, description, status=status)
    if is_refresh and call.path.endswith("/refresh") != (mode.refresh_at == "refresh"):
        return refusal(mode, "invalid_request", "Refreshing is done at another address.")
    if is_refresh and mode.has_refresh:
        return _refresh(sandbox, call, client, method=method)
    if grant_type == "authorization_code":
        return _redeem(sandbox, call, client, method=method)
    if grant_type == JWT_BEARER:
        return _redeem_assertion(sandbox, call, client)
    if grant_type == EXCHANGE and mode.downscope == "exchange":
        return _exchange(sandbox, call, client)
    return refusal(mode, "unsupported_grant_type", "There is no such grant type here.")


def lengthen(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """The step that exchanges a new token for a long-lived one: a GET with the client's secret (Meta)."""
    name, now = face_name(call), sandbox.clock.now()
    mode = sandbox.mode(name)
    query = call.query
    if mode.long_lived is None or query.get("grant_type") != mode.long_lived[0]:
        return refusal(mode, "unsupported_grant_type", "There is no such grant type here.")
    client = sandbox.clients.get(query.get("client_id", ""))
    if client is None or query.get("client_secret") != client.client_secret:
        return refusal(mode, "invalid_client", "The client secret is wrong.", status=401)
    short = sandbox.face(name).tokens.find_access(query.get(mode.long_lived[1], ""))
    if short is None or sandbox.face(name).tokens.is_dead(short):
        return refusal(mode, "invalid_grant", "The token is not known, or no longer good.")
    issued = sandbox.face(name).tokens.lengthen(short, seconds=_LONG, now=now)
    return tokens_answer(mode, call, issued, now=now)


def renew(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """A GET that exchanges a long-lived token, a day old and alive, for the next; errors as the Graph API has them.

    developers.facebook.com/docs/threads/get-started/long-lived-tokens
    """
    name, now = face_name(call), sandbox.clock.now()
    mode, tokens = sandbox.mode(name), sandbox.face(name).tokens
    token = tokens.find_access(call.query.get("access_token", ""))
    if mode.renewal is None or call.query.get("grant_type") != mode.renewal:
        return _graph_refusal(100, "There is no such grant type here.")
    if token is None or tokens.is_dead(token) or token.expires_at <= now:
        return _graph_refusal(190, "The token is not known, or has ended.")
    if token.expires_at - now > _LONG - 86400:
        return _graph_refusal(100, "The token is less than a day old.")
    issued = tokens.lengthen(token, seconds=_LONG, now=now, is_renewal=True)
    return tokens_answer(mode, call, issued, now=now)


def _graph_refusal(code: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "OAuthException", "code": code}}, status_code=400)


def _redeem(sandbox: Sandbox, call: SimulatedCall, client: RegisteredClient, *, method: str) -> Response:
    name, now = face_name(call), sandbox.clock.now()
    mode, face = sandbox.mode(name), sandbox.face(name)
    entry = token_endpoint.note_redemption(sandbox, call, name, client=client, method=method)
    sent = call.text("redirect_uri")
    if sent is not None and mode.redirect_uri_at_token == "refused":
        entry["outcome"] = "redirect_uri"
        return refusal(mode, "invalid_request", "redirect_uri must not be sent here.")
    if mode.redirect_uri_at_token != "required":
        sent = face.authorizations.redirect_uri_of(call.text("code") or "")
    if mode.pkce == "refused" and call.text("code_verifier") is not None:
        entry["outcome"] = "verifier"
        return refusal(mode, "invalid_request", "Unknown parameter: code_verifier.")
    try:
        code = token_endpoint.redeem(
            sandbox,
            call,
            entry,
            redirect_uri=sent,
            verifier=None if mode.pkce == "ignored" else call.text("code_verifier"),
        )
    except CodeRefused as refused:
        return refusal(mode, "invalid_grant", f"The code is no good: {refused.reason}.")
    if mode.state_at_token and call.text("state") != code.request.state:
        entry["outcome"] = "state"
        return refusal(mode, "invalid_request", "The state isn't that of the authorization request.")
    issued = face.tokens.open_family(
        client_id=client.client_id,
        account=code.account,
        kind="user",
        scopes=code.scopes,
        with_refresh=code.request.offline,
        now=now,
    )
    entry.update(family=issued.family.label, account=code.account, scopes=sorted(issued.scopes))
    return tokens_answer(mode, call, issued, now=now)


def _redeem_assertion(sandbox: Sandbox, call: SimulatedCall, client: RegisteredClient) -> Response:
    """RFC 7523 §2.1, for assertions of the company; without a refresh token (ID-JAG -03 §4.4.3)."""
    name, now = face_name(call), sandbox.clock.now()
    mode, issuer = sandbox.mode(name), sandbox.issuer_of(name)
    if issuer not in sandbox.directory.services:
        return refusal(mode, "unsupported_grant_type", "There is no such grant type here.")
    entry = sandbox.books.write(
        "assertions", now, outcome="redeemed", audience=issuer, client_id=client.client_id, account=None, scopes=[]
    )
    try:
        account, scopes = redeem(sandbox, call.text("assertion") or "", audience=issuer, client=client)
    except AssertionInvalid as refused:
        entry["outcome"] = f"refused:{refused.reason}"
        return refusal(mode, "invalid_grant", f"The assertion is no good: {refused.reason}.")
    issued = sandbox.face(name).tokens.open_family(
        client_id=client.client_id, account=account, kind="user", scopes=scopes, with_refresh=False, now=now
    )
    entry.update(family=issued.family.label, account=account, scopes=sorted(issued.scopes))
    return tokens_answer(mode, call, issued, now=now)


def _refresh(sandbox: Sandbox, call: SimulatedCall, client: RegisteredClient, *, method: str) -> Response:
    name, now = face_name(call), sandbox.clock.now()
    mode = sandbox.mode(name)
    asked = asked_scopes(mode, call)

    def spend(value: str) -> RefreshAnswer:
        known = token_endpoint.check_active(sandbox, name, value)
        wanted, rotates = _choose_scopes(mode, asked, granted=frozenset() if known is None else known.family.scopes)
        tokens = sandbox.face(name).tokens
        return tokens.refresh(value, client_id=client.client_id, scopes=wanted, now=now, rotates=rotates)

    try:
        refreshed = token_endpoint.refresh(
            sandbox, call, name, client=client, method=method, asked=frozenset(asked or ()), spend=spend
        )
    except PresentedTokenRefused as refused:
        error = {"scope": "invalid_scope", "other_client": "unauthorized_client"}.get(refused.reason, "invalid_grant")
        return refusal(mode, error, "The refresh token, or what was asked of it, is no good.")
    return tokens_answer(mode, call, refreshed.issued, now=now)


def _choose_scopes(
    mode: Mode, asked: tuple[str, ...] | None, *, granted: frozenset[str]
) -> tuple[frozenset[str] | None, bool]:
    """The scopes of the new access token, and whether the answer may include a new refresh token.

    If tokens are for one resource, the first scope's resource wins and the others are left out; without a request, the
    resource of scopes without a prefix.
    """
    rotates = asked is None or mode.offline_scope is None or mode.offline_scope in asked
    if mode.one_resource is None:
        return (None if asked is None else frozenset(asked)), rotates
    named = tuple(sorted(granted)) if asked is None else asked
    first = next((scope for scope in named if scope not in mode.shape.unsaid), None)
    resource = mode.one_resource if asked is None or first is None else resource_of(mode, first)
    return frozenset(scope for scope in named if resource_of(mode, scope) == resource), rotates


def resource_of(mode: Mode, scope: str) -> str:
    """The resource that a scope is for: its prefix, or the one that scopes without a prefix belong to."""
    prefix, slash, _ = scope.rpartition("/")
    return prefix if slash else mode.one_resource or ""


def _exchange(sandbox: Sandbox, call: SimulatedCall, client: RegisteredClient) -> Response:
    """RFC 8693, as far as providers support it: exchanges one of our access tokens for one with less authority."""
    name = face_name(call)
    mode, now = sandbox.mode(name), sandbox.clock.now()
    if call.text("subject_token_type") != ACCESS_TOKEN_TYPE:
        return refusal(mode, "invalid_request", "subject_token_type must be that of an access token.")
    asked = asked_scopes(mode, call)
    derivation = Derivation(
        call.text("subject_token") or "", client, scopes=frozenset(asked or ()), item=call.text("resource")
    )
    try:
        issued, parent = derive(sandbox, name, derivation, fault=call.fault)
    except DerivationRefused as refused:
        return refusal(mode, refused.error, refused.description)
    limits: list[JsonValue] = [{"scope": scope, **_object(derivation.item)} for scope in sorted(issued.scopes)]
    body: dict[str, JsonValue] = {
        "access_token": issued.access_token,
        "expires_in": round(parent.expires_at - now),
        "token_type": "bearer",
        "issued_token_type": ACCESS_TOKEN_TYPE,
        "restricted_to": limits,
    }
    return success(mode, call, body)


def _object(item: str | None) -> dict[str, JsonValue]:
    """`.../folders/12` as `{"type": "folder", "id": "12"}`."""
    if item is None:
        return {}
    kind, _, number = item.rpartition("/")
    return {"object": {"type": kind.rpartition("/")[2].removesuffix("s"), "id": number, "etag": "0"}}


def _record_refused(sandbox: Sandbox, call: SimulatedCall, name: str, reason: str) -> None:
    is_refresh = endpoint_name(call) == "token.refresh"
    sandbox.books.write(
        "refreshes" if is_refresh else "redemptions",
        sandbox.clock.now(),
        face=name,
        outcome=f"refused:{reason}" if is_refresh else reason,
        family=None,
        token_generation=None,
        fault=call.fault,
    )
