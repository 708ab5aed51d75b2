"""The Google face's OAuth: authorize, token, revoke, userinfo, OpenID discovery and keys, in Google's own shapes.

A refresh token is issued only with `access_type=offline`, and only at the first consent or with `prompt=consent`. It
never rotates by default; `scope` on refresh yields a token with exactly those scopes. Granted scopes have their long
names.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator import token_endpoint
from providers.simulator.accounts import PEOPLE, RegisteredClient
from providers.simulator.calls import SimulatedCall
from providers.simulator.google.identity import id_token
from providers.simulator.state.authorize import CodeRefused, RequestRefused, SimulatedRequest, read_challenge
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.state.tokens import PresentedTokenRefused, RefreshAnswer, SimulatedTokens
from providers.simulator.wire import ClientRefused, authenticate

API = "https://www.googleapis.com/auth/"
EMAIL, PROFILE = f"{API}userinfo.email", f"{API}userinfo.profile"
IDENTITY_SCOPES = frozenset({"openid", EMAIL, PROFILE})
MAIL = "https://mail.google.com/"
_SHORT = {"email": EMAIL, "profile": PROFILE}
_CALENDAR_PARTS = (
    *(
        "acls",
        "acls.readonly",
        "app.created",
        "calendarlist",
        "calendarlist.readonly",
        "calendars",
        "calendars.readonly",
    ),
    *(
        "events",
        "events.readonly",
        "events.freebusy",
        "events.owned",
        "events.owned.readonly",
        "events.public.readonly",
    ),
    *("freebusy", "readonly", "settings.readonly"),
)
_OTHER = (
    *("calendar", "drive", "drive.file", "drive.readonly", "contacts.readonly", "tasks", "tasks.readonly"),
    *("drive.metadata", "drive.metadata.readonly"),
    *("gmail.compose", "gmail.metadata", "gmail.modify", "gmail.readonly", "gmail.send"),
)
SCOPES = (
    IDENTITY_SCOPES
    | {MAIL}
    | {f"{API}calendar.{part}" for part in _CALENDAR_PARTS}
    | {f"{API}{name}" for name in _OTHER}
)
_CLIENT_ERRORS = {
    "missing": (400, "invalid_request", "Could not determine client ID from request."),
    "unknown": (401, "invalid_client", "The OAuth client was not found."),
    "secret": (401, "invalid_client", "Unauthorized"),
    "two_methods": (400, "invalid_request", "More than one client authentication method."),
}
_CODE_ERRORS = {
    "redirect_uri": (400, "redirect_uri_mismatch", "Bad Request"),
    "verifier": (400, "invalid_grant", "Invalid code verifier."),
}


def read_authorization(sandbox: Sandbox, query: Mapping[str, str], client: RegisteredClient) -> SimulatedRequest:
    """Google's parameters. Raises RequestRefused."""
    if query.get("response_type") != "code":
        raise RequestRefused("unsupported_response_type", "response_type must be code.")
    scopes = tuple(dict.fromkeys(_SHORT.get(scope, scope) for scope in query.get("scope", "").split()))
    if not scopes:
        raise RequestRefused("invalid_request", "Missing required parameter: scope.")
    unknown = sorted(set(scopes) - SCOPES)
    if unknown:
        raise RequestRefused("invalid_scope", f"Some requested scopes were invalid: {', '.join(unknown)}.")
    access_type = query.get("access_type", "online")
    prompt = frozenset(query.get("prompt", "").split())
    if access_type not in {"online", "offline"} or not prompt <= {"none", "consent", "select_account"}:
        raise RequestRefused("invalid_request", "Invalid access_type or prompt.")
    challenge, method = read_challenge(query.get("code_challenge"), query.get("code_challenge_method"), plain=True)
    return SimulatedRequest(
        face="google",
        client=client,
        redirect_uri=query["redirect_uri"],
        scopes=scopes,
        bot_scopes=(),
        state=query.get("state"),
        challenge=challenge,
        challenge_method=method,
        created_at=sandbox.clock.now(),
        offline=access_type == "offline",
        prompt=prompt,
        include_granted=query.get("include_granted_scopes") == "true",
        nonce=query.get("nonce"),
        login_hint=query.get("login_hint"),
    )


def success_parameters(sandbox: Sandbox, granted: frozenset[str]) -> dict[str, str]:
    """What Google adds to a successful redirect."""
    return {"iss": issuer(sandbox), "scope": " ".join(sorted(granted)), "authuser": "0", "prompt": "consent"}


def issuer(sandbox: Sandbox) -> str:
    """The OpenID issuer of this face."""
    return f"{sandbox.url}/google"


def token(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """The token endpoint (RFC 6749 §3.2)."""
    try:
        client, method = authenticate(call, sandbox.clients)
    except ClientRefused as refusal:
        status, code, description = _CLIENT_ERRORS[refusal.reason]
        token_endpoint.note_client_refused(sandbox, call, "google", refusal.reason)
        return oauth_error(code, description, status=status)
    match call.text("grant_type"):
        case "refresh_token":
            return _refresh(sandbox, call, client, method=method)
        case "authorization_code":
            return _redeem(sandbox, call, client, method=method)
        case None:
            return oauth_error("invalid_request", "Missing required parameter: grant_type")
        case _:
            return oauth_error("unsupported_grant_type", "Invalid grant_type")


def revoke(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """The revocation endpoint: either token ends the whole grant; an unknown one is a 400 (unlike RFC 7009)."""
    face = sandbox.faces["google"]
    value = call.text("token") or call.query.get("token") or ""
    known = face.tokens.find_access(value) or face.tokens.find_refresh(value)
    dead = known is None or known.revoked or known.family.ended is not None
    entry = token_endpoint.note_revocation(
        sandbox, call, "google", known, outcome="invalid_token" if dead else "revoked"
    )
    if known is None or dead:
        return oauth_error("invalid_token", "Token expired or revoked")
    token_endpoint.revoke(sandbox, entry, known)
    return JSONResponse({})


def userinfo(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """The account behind an access token, as far as its identity scopes reach."""
    face, now = sandbox.faces["google"], sandbox.clock.now()
    known, entry = token_endpoint.note_api_call(sandbox, call, "google", "userinfo", value=call.bearer)
    if known is None or face.tokens.is_dead(known) or now >= known.expires_at:
        entry["outcome"] = "invalid_token"
        return oauth_error("invalid_request", "Invalid Credentials", status=401)
    if not known.scopes & IDENTITY_SCOPES:
        entry["outcome"] = "insufficient_scope"
        return oauth_error("insufficient_scope", "Request had insufficient authentication scopes.", status=403)
    person = PEOPLE[known.family.account]
    body: dict[str, JsonValue] = {"sub": person.google_id}
    if PROFILE in known.scopes:
        body.update(name=person.display_name, given_name=person.name.title())
    if EMAIL in known.scopes:
        body.update(email=person.email, email_verified=True)
    return JSONResponse(body)


def oauth_error(code: str, description: str, *, status: int = 400) -> JSONResponse:
    """RFC 6749 §5.2."""
    headers = {"cache-control": "no-store"}
    if status == 401:
        headers["www-authenticate"] = 'Basic realm="sandbox"' if code == "invalid_client" else "Bearer"
    return JSONResponse({"error": code, "error_description": description}, status_code=status, headers=headers)


def _redeem(sandbox: Sandbox, call: SimulatedCall, client: RegisteredClient, *, method: str) -> Response:
    face, now = sandbox.faces["google"], sandbox.clock.now()
    entry = token_endpoint.note_redemption(sandbox, call, "google", client=client, method=method)
    try:
        code = token_endpoint.redeem(
            sandbox, call, entry, redirect_uri=call.text("redirect_uri"), verifier=call.text("code_verifier")
        )
    except CodeRefused as refusal:
        status, error, description = _CODE_ERRORS.get(refusal.reason, (400, "invalid_grant", "Malformed auth code."))
        return oauth_error(error, description, status=status)
    request = code.request
    issued = face.tokens.open_family(
        client_id=client.client_id,
        account=code.account,
        kind="user",
        scopes=code.scopes,
        with_refresh=request.offline and (code.first_consent or "consent" in request.prompt),
        now=now,
    )
    entry.update(family=issued.family.label, account=code.account, scopes=sorted(issued.scopes))
    body = _answer(issued, now=now)
    if (
        face.rules.tells_refresh_lifetime
        and face.rules.refresh_lifetime is not None
        and issued.refresh_token is not None
    ):
        body["refresh_token_expires_in"] = face.rules.refresh_lifetime
    if "openid" in issued.scopes:
        body["id_token"] = id_token(sandbox, issued, issuer=issuer(sandbox), nonce=request.nonce, now=now)
    return JSONResponse(body, headers={"cache-control": "no-store"})


def _refresh(sandbox: Sandbox, call: SimulatedCall, client: RegisteredClient, *, method: str) -> Response:
    now = sandbox.clock.now()
    scopes = frozenset(_SHORT.get(scope, scope) for scope in (call.text("scope") or "").split())

    def spend(value: str) -> RefreshAnswer:
        token_endpoint.check_active(sandbox, "google", value)
        tokens = sandbox.faces["google"].tokens
        return tokens.refresh(value, client_id=client.client_id, scopes=scopes or None, now=now)

    try:
        refreshed = token_endpoint.refresh(
            sandbox, call, "google", client=client, method=method, asked=scopes, spend=spend
        )
    except PresentedTokenRefused as refusal:
        return _refresh_error(refusal.reason)
    return JSONResponse(_answer(refreshed.issued, now=now), headers={"cache-control": "no-store"})


def _refresh_error(reason: str) -> Response:
    match reason:
        case "scope":
            return oauth_error("invalid_scope", "Bad Request")
        case "other_client":
            return oauth_error("unauthorized_client", "Unauthorized", status=401)
        case "unknown":
            return oauth_error("invalid_grant", "Bad Request")
        case _:
            return oauth_error("invalid_grant", "Token has been expired or revoked.")


def _answer(issued: SimulatedTokens, *, now: float) -> dict[str, JsonValue]:
    body: dict[str, JsonValue] = {
        "access_token": issued.access_token,
        "expires_in": round(issued.expires_at - now),
        "scope": " ".join(sorted(issued.scopes)),
        "token_type": "Bearer",
    }
    if issued.refresh_token is not None:
        body["refresh_token"] = issued.refresh_token
    return body
