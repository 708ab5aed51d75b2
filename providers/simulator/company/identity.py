"""The company's endpoints: sign-in, tokens, and token exchange."""

from __future__ import annotations

import base64
import hashlib
import hmac
from functools import partial

from pydantic import JsonValue
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from providers.simulator.accounts import RegisteredClient
from providers.simulator.calls import SimulatedCall
from providers.simulator.company import assertions
from providers.simulator.company.assertions import AssertionInvalid
from providers.simulator.pages import refused_page, sign_in_page
from providers.simulator.state.authorize import RequestRefused, check_redirect_uri, with_parameters
from providers.simulator.state.directory import FACE, Enrolment, SignInCode
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.state.tokens import PresentedTokenRefused, SimulatedTokens
from providers.simulator.token_endpoint import note_revocation, revoke
from providers.simulator.wire import ClientRefused, authenticate, endpoint

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
REFRESH_TOKEN = "urn:ietf:params:oauth:token-type:refresh_token"
_CODE_LIFETIME = 60  # seconds
_NO_STORE = {"cache-control": "no-store"}


def company_routes(sandbox: Sandbox) -> list[Route]:
    """All endpoints."""
    at = "/company"

    def discovery(_call: SimulatedCall) -> Response:
        return JSONResponse(_metadata(sandbox))

    def keys(_call: SimulatedCall) -> Response:
        return JSONResponse(assertions.public_keys())

    return [
        Route(f"{at}/.well-known/openid-configuration", endpoint(sandbox, FACE, "discovery", discovery)),
        Route(f"{at}/jwks", endpoint(sandbox, FACE, "keys", keys)),
        Route(
            f"{at}/authorize",
            endpoint(sandbox, FACE, "authorize", partial(_authorize, sandbox)),
            methods=["GET", "POST"],
        ),
        Route(f"{at}/token", endpoint(sandbox, FACE, _endpoint_name, partial(_token, sandbox)), methods=["POST"]),
        Route(f"{at}/revoke", endpoint(sandbox, FACE, "revoke", partial(_revoke, sandbox)), methods=["POST"]),
    ]


def _metadata(sandbox: Sandbox) -> dict[str, JsonValue]:
    """OpenID Connect Discovery §3; -03 §7.1."""
    base = f"{sandbox.url}/company"
    return {
        "issuer": assertions.issuer(sandbox),
        "authorization_endpoint": f"{base}/authorize",
        "token_endpoint": f"{base}/token",
        "revocation_endpoint": f"{base}/revoke",
        "jwks_uri": f"{base}/jwks",
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "grant_types_supported": ["authorization_code", "refresh_token", EXCHANGE],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "identity_chaining_requested_token_types_supported": [ID_JAG],
    }


def _endpoint_name(call: SimulatedCall) -> str:
    kind = call.text("grant_type")
    return {"refresh_token": "token.refresh", EXCHANGE: "token.exchange"}.get(kind or "", "token.code")


def _authorize(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """Sign in, without asking anyone for consent."""
    sent = {**call.query, **{name: str(value) for name, value in call.arguments.items()}}
    client = sandbox.clients.get(sent.get("client_id", ""))
    if client is None:
        return refused_page(FACE, error="invalid_client", description="No client with this client_id is registered.")
    try:
        check_redirect_uri(client, sent.get("redirect_uri", ""))
    except RequestRefused as refused:
        return refused_page(FACE, error=refused.error, description=refused.description)
    account = sandbox.directory.signed_in if call.method == "GET" else call.text("account")
    if account is None:
        return sign_in_page(FACE, client=client.name, action=call.path, hidden=dict(call.query))
    if not sandbox.is_active(account):
        return refused_page(FACE, error="access_denied", description="This account is disabled.", status=403)
    code = SignInCode(
        client,
        sent["redirect_uri"],
        challenge=sent.get("code_challenge", ""),
        nonce=sent.get("nonce"),
        account=account,
        offline="offline_access" in sent.get("scope", "").split(),
        at=sandbox.clock.now(),
    )
    answer = {"code": sandbox.directory.issue_code(code), "iss": assertions.issuer(sandbox)}
    answer |= {"state": sent["state"]} if "state" in sent else {}
    return RedirectResponse(with_parameters(code.redirect_uri, answer), status_code=302)


def _token(sandbox: Sandbox, call: SimulatedCall) -> Response:
    try:
        client, _ = authenticate(call, sandbox.clients)
    except ClientRefused as refused:
        return _error("invalid_client", refused.reason, status=401)
    match call.text("grant_type"):
        case "authorization_code":
            return _redeem(sandbox, call, client)
        case "refresh_token":
            return _refresh(sandbox, call, client)
        case kind if kind == EXCHANGE:
            return _exchange(sandbox, call, client)
        case _:
            return _error("unsupported_grant_type", "There is no such grant type here.")


def _redeem(sandbox: Sandbox, call: SimulatedCall, client: RegisteredClient) -> Response:
    now = sandbox.clock.now()
    code = sandbox.directory.codes.pop(call.text("code") or "", None)
    digest = hashlib.sha256((call.text("code_verifier") or "").encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    if (
        code is None
        or now > code.at + _CODE_LIFETIME
        or code.client.client_id != client.client_id
        or code.redirect_uri != call.text("redirect_uri")
        or not hmac.compare_digest(challenge, code.challenge)
    ):
        return _error("invalid_grant", "The code is no good.")
    issued = sandbox.face(FACE).tokens.open_family(
        client_id=client.client_id,
        account=code.account,
        kind="user",
        scopes=frozenset({"openid"}),
        with_refresh=code.offline,
        now=now,
    )
    return _tokens(sandbox, issued, nonce=code.nonce, signed_in_at=code.at, has_id_token=True)


def _refresh(sandbox: Sandbox, call: SimulatedCall, client: RegisteredClient) -> Response:
    now, tokens = sandbox.clock.now(), sandbox.face(FACE).tokens
    value = call.text("refresh_token") or ""
    entry = sandbox.books.write("refreshes", now, face=FACE, outcome="ok", fault=call.fault, client_id=client.client_id)
    known = tokens.find_refresh(value)
    if known is not None and not sandbox.is_active(known.family.account):
        entry["outcome"] = "refused:inactive"
        return _error("invalid_grant", "This account is disabled.")
    try:
        refreshed = tokens.refresh(value, client_id=client.client_id, scopes=None, now=now)
    except PresentedTokenRefused as refused:
        entry["outcome"] = f"refused:{refused.reason}"
        return _error("invalid_grant", "The refresh token is no good.")
    entry.update(outcome=refreshed.outcome, family=refreshed.presented.family.label)
    family = refreshed.issued.family
    has_id_token = sandbox.directory.renews_id_tokens
    return _tokens(sandbox, refreshed.issued, nonce=None, signed_in_at=family.created_at, has_id_token=has_id_token)


def _tokens(
    sandbox: Sandbox, issued: SimulatedTokens, *, nonce: str | None, signed_in_at: float, has_id_token: bool
) -> Response:
    family = issued.family
    said: dict[str, JsonValue] = {
        "access_token": issued.access_token,
        "token_type": "Bearer",
        "expires_in": round(issued.expires_at - sandbox.clock.now()),
        "scope": "openid offline_access" if issued.refresh_token else "openid",
    }
    if issued.refresh_token is not None:
        said["refresh_token"] = issued.refresh_token
    if has_id_token:
        said["id_token"] = assertions.id_token(
            sandbox, family.account, client_id=family.client_id, nonce=nonce, signed_in_at=signed_in_at
        )
    return JSONResponse(said, headers=_NO_STORE)


def _exchange(sandbox: Sandbox, call: SimulatedCall, client: RegisteredClient) -> Response:
    """-03 §4.3: an ID token of this client for an assertion to a service."""
    audience, now = call.text("audience") or "", sandbox.clock.now()
    entry = sandbox.books.write(
        "assertions", now, outcome="issued", audience=audience, client_id=client.client_id, account=None, scopes=[]
    )

    def refuse(error: str, description: str) -> Response:
        entry["outcome"] = f"refused:{error}"
        return _error(error, description)

    kinds = {ID_TOKEN, *((REFRESH_TOKEN,) if sandbox.directory.takes_refresh_tokens else ())}
    entry["subject"] = kind = call.text("subject_token_type") or ""
    if call.text("requested_token_type") != ID_JAG or kind not in kinds:
        return refuse("invalid_request", "This exchanges ID tokens for identity assertions only.")
    try:
        account, signed_in_at = _read_subject(sandbox, kind, call.text("subject_token") or "", client=client)
    except AssertionInvalid as refused:
        return refuse("invalid_request", f"The subject token is no good: {refused.reason}.")
    entry["account"] = account
    service = sandbox.directory.services.get(audience)
    if service is None:
        return refuse("invalid_target", "The company doesn't know this service.")
    if account in service.denied:
        return refuse("access_denied", "The company's policy doesn't allow this person there.")
    scopes = _allow_scopes(service, call.text("scope") or "")
    if not scopes:
        return refuse("invalid_scope", "The company's policy allows none of these scopes.")
    entry["scopes"] = sorted(scopes)
    made = assertions.assertion(
        sandbox,
        account,
        audience=audience,
        client_id=service.clients.get(client.client_id, client.client_id),
        scopes=scopes,
        resource=call.text("resource"),
        signed_in_at=signed_in_at,
    )
    said: dict[str, JsonValue] = {
        "issued_token_type": ID_JAG,
        "access_token": made,
        "token_type": "N_A",
        "scope": " ".join(sorted(scopes)),
        "expires_in": 300,
    }
    return JSONResponse(said, headers=_NO_STORE)


def _read_subject(sandbox: Sandbox, kind: str, token: str, *, client: RegisteredClient) -> tuple[str, float]:
    """The person, and when they signed in. A refresh token must be live and this client's, and stays unchanged
    (§4.3.3)."""
    if kind == ID_TOKEN:
        return assertions.read_id_token(sandbox, token, client_id=client.client_id)
    tokens = sandbox.face(FACE).tokens
    found = tokens.find_refresh(token)
    if found is None or found not in tokens.live_refresh_tokens(found.family):
        raise AssertionInvalid("refresh token")
    if found.family.client_id != client.client_id or not sandbox.is_active(found.family.account):
        raise AssertionInvalid("refresh token of another")
    return found.family.account, found.family.created_at


def _allow_scopes(service: Enrolment, asked: str) -> frozenset[str]:
    scopes = frozenset(asked.split())
    return scopes if service.scopes is None else scopes & service.scopes


def _revoke(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """RFC 7009."""
    try:
        authenticate(call, sandbox.clients)
    except ClientRefused as refused:
        return _error("invalid_client", refused.reason, status=401)
    tokens, value = sandbox.face(FACE).tokens, call.text("token") or ""
    known = tokens.find_refresh(value) or tokens.find_access(value)
    entry = note_revocation(sandbox, call, FACE, known, outcome="unknown" if known is None else "ok")
    if known is not None:
        revoke(sandbox, entry, known)
    return JSONResponse({})


def _error(error: str, description: str, *, status: int = 400) -> Response:
    body = {"error": error, "error_description": description}
    return JSONResponse(body, status_code=status, headers=_NO_STORE)
