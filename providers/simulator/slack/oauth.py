"""The Slack face's OAuth: authorize, `oauth.v2.access`, `oauth.v2.user.access`, `auth.revoke`, in Slack's own shapes.

Every refusal is HTTP 200 with `ok: false`, as at Slack. Tokens rotate, unless the app has rotation off: then there is
no refresh token or `expires_in` (docs.slack.dev/authentication/using-token-rotation, read 2026-11-25). An app with PKCE
turned on (docs.slack.dev/authentication/using-pkce, read 2026-11-25) may omit its secret, but must then prove the code
with PKCE; redirected to this machine it gets no bot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from urllib.parse import urlsplit

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator import token_endpoint
from providers.simulator.accounts import PEOPLE, RegisteredClient
from providers.simulator.calls import SimulatedCall
from providers.simulator.state.authorize import CodeRefused, RequestRefused, SimulatedRequest, read_challenge
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.state.tokens import PresentedTokenRefused, RefreshAnswer, SimulatedTokens
from providers.simulator.state.workspace import APP_ID, BOT_USER, TEAM_ID, TEAM_NAME
from providers.simulator.wire import ClientRefused, authenticate

SCOPES = frozenset(
    {f"{kind}:{verb}" for kind in ("channels", "groups", "im", "mpim") for verb in ("read", "write", "history")}
    | {f"{thing}:{verb}" for thing in ("files", "pins", "reactions", "users") for verb in ("read", "write")}
    | {"chat:write", "search:read", "team:read", "users.profile:read", "users:read.email"}
    | {"email", "identify", "openid", "profile"}
)
_CLIENT_ERRORS = {
    "missing": "invalid_client_id",
    "unknown": "invalid_client_id",
    "secret": "bad_client_secret",
    "two_methods": "invalid_arguments",
}
_CODE_ERRORS = {
    "unknown": "invalid_code",
    "used": "code_already_used",
    "expired": "code_expired",
    "other_client": "invalid_code",
    "redirect_uri": "bad_redirect_uri",
    "verifier": "invalid_code_verifier",
}


def slack_error(code: str, **facts: JsonValue) -> JSONResponse:
    """A refusal in Slack's form."""
    return JSONResponse({"ok": False, "error": code, **facts})


def read_authorization(sandbox: Sandbox, query: Mapping[str, str], client: RegisteredClient) -> SimulatedRequest:
    """Slack's: `scope` asks for a bot, `user_scope` for the person; comma separated. Raises RequestRefused."""
    user, bot = _split_scopes(query.get("user_scope", "")), _split_scopes(query.get("scope", ""))
    unknown = sorted({*user, *bot} - SCOPES)
    if unknown:
        raise RequestRefused("invalid_scope", f"Unknown scopes: {', '.join(unknown)}.")
    if client.user_scopes is not None and not client.user_scopes.issuperset(user):
        lacking = ", ".join(sorted(set(user) - client.user_scopes))
        raise RequestRefused("invalid_scope_requested", f"Invalid permissions requested: {lacking}")
    is_plain = urlsplit(query["redirect_uri"]).scheme == "http"
    if is_plain and not client.is_public and sandbox.faces["slack"].rules.http_for_public_apps_only:
        raise RequestRefused("redirect_uri_mismatch", "A redirect of this app has to be https.")
    if client.is_public and bot and is_plain:
        raise RequestRefused("invalid_scope", "A redirect to the person's own machine cannot ask for bot scopes.")
    if not client.is_public and "code_challenge" in query:
        raise RequestRefused("invalid_request", "PKCE is not turned on for this app.")
    if not user and not bot:
        raise RequestRefused("no_scopes", "Neither scope nor user_scope asks for anything.")
    challenge, method = read_challenge(query.get("code_challenge"), query.get("code_challenge_method"), plain=False)
    return SimulatedRequest(
        face="slack",
        client=client,
        redirect_uri=query["redirect_uri"],
        scopes=user,
        bot_scopes=bot,
        state=query.get("state"),
        challenge=challenge,
        challenge_method=method,
        created_at=sandbox.clock.now(),
    )


def read_user_authorization(sandbox: Sandbox, query: Mapping[str, str], client: RegisteredClient) -> SimulatedRequest:
    """The user-only page, where `scope` asks for the person (space or comma separated)."""
    return read_authorization(
        sandbox, {**query, "user_scope": query.get("scope", "").replace(" ", ","), "scope": ""}, client
    )


def token_endpoint_name(call: SimulatedCall) -> str:
    """The name of this request in faults and books."""
    return "token.refresh" if call.text("grant_type") == "refresh_token" else "token.code"


def token(sandbox: Sandbox, call: SimulatedCall, *, user_only: bool = False) -> Response:
    """`oauth.v2.access`: a code or a refresh token for tokens."""
    try:
        client, method = authenticate(call, sandbox.clients, allow_public=True)
    except ClientRefused as refusal:
        token_endpoint.note_client_refused(sandbox, call, "slack", refusal.reason)
        return slack_error(_CLIENT_ERRORS[refusal.reason])
    match call.text("grant_type") or "authorization_code":
        case "refresh_token":
            return _refresh(sandbox, call, client, method=method)
        case "authorization_code":
            return _redeem(sandbox, call, client, method=method, user_only=user_only)
        case _:
            return slack_error("invalid_grant_type")


def revoke(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """`auth.revoke`: ends the presented token, and what else the rules require. `test=1` only tests it."""
    face, value = sandbox.faces["slack"], call.bearer or call.text("token")
    if value is None:
        return slack_error("not_authed")
    access, refresh = face.tokens.find_access(value), face.tokens.find_refresh(value)
    known = access or refresh
    entry = token_endpoint.note_revocation(sandbox, call, "slack", known, outcome="invalid_auth")
    if known is None:
        return slack_error("invalid_auth")
    if known.revoked or known.family.ended is not None:
        entry["outcome"] = "token_revoked"
        return slack_error("token_revoked")
    if (call.text("test") or call.query.get("test")) in {"1", "true"}:
        entry["outcome"] = "tested"
        return JSONResponse({"ok": True, "revoked": False})
    entry["outcome"] = "revoked"
    token_endpoint.revoke(sandbox, entry, known)
    return JSONResponse({"ok": True, "revoked": True})


def _redeem(
    sandbox: Sandbox, call: SimulatedCall, client: RegisteredClient, *, method: str, user_only: bool
) -> Response:
    face, now = sandbox.faces["slack"], sandbox.clock.now()
    entry = token_endpoint.note_redemption(sandbox, call, "slack", client=client, method=method)
    if method == "none" and call.text("code_verifier") is None:
        entry["outcome"] = "verifier"
        return slack_error(_CODE_ERRORS["verifier"])
    try:
        code = token_endpoint.redeem(
            sandbox, call, entry, redirect_uri=call.text("redirect_uri"), verifier=call.text("code_verifier")
        )
    except CodeRefused as refusal:
        return slack_error(_CODE_ERRORS[refusal.reason])
    person = PEOPLE[code.account]
    body: dict[str, JsonValue] = {"ok": True, "app_id": APP_ID, "authed_user": {"id": person.slack_id}, **_team()}
    if code.scopes:
        user = face.tokens.open_family(
            client_id=client.client_id,
            account=person.name,
            kind="user",
            scopes=code.scopes,
            with_refresh=client.rotates,
            now=now,
        )
        entry.update(family=user.family.label, account=person.name, scopes=sorted(user.scopes))
        body["authed_user"] = {"id": person.slack_id, **_token_members(user, now=now)}
        if user_only:
            body.update(_token_members(user, now=now))
    if code.request.bot_scopes and not user_only:
        bot = face.tokens.open_family(
            client_id=client.client_id,
            account=person.name,
            kind="bot",
            scopes=frozenset(code.request.bot_scopes),
            with_refresh=client.rotates,
            now=now,
        )
        entry.update(bot_family=bot.family.label, account=person.name)
        body.update({**_token_members(bot, now=now), "bot_user_id": BOT_USER})
    return JSONResponse(body, headers={"cache-control": "no-store"})


def _refresh(sandbox: Sandbox, call: SimulatedCall, client: RegisteredClient, *, method: str) -> Response:
    now = sandbox.clock.now()
    scopes = frozenset(_split_scopes((call.text("scope") or "").replace(" ", ",")))

    def spend(value: str) -> RefreshAnswer:
        tokens = sandbox.faces["slack"].tokens
        return tokens.refresh(value, client_id=client.client_id, scopes=scopes or None, now=now)

    try:
        refreshed = token_endpoint.refresh(
            sandbox, call, "slack", client=client, method=method, asked=scopes, spend=spend
        )
    except PresentedTokenRefused as refusal:
        return slack_error("invalid_scope" if refusal.reason == "scope" else "invalid_refresh_token")
    presented, issued = refreshed.presented, refreshed.issued
    person = PEOPLE[presented.family.account]
    body: dict[str, JsonValue] = {"ok": True, "app_id": APP_ID, **_token_members(issued, now=now), **_team()}
    if presented.family.kind == "bot":
        body["bot_user_id"] = BOT_USER
    else:
        body["user_id"] = person.slack_id
    return JSONResponse(body, headers={"cache-control": "no-store"})


def _token_members(issued: SimulatedTokens, *, now: float) -> dict[str, JsonValue]:
    members: dict[str, JsonValue] = {
        "scope": ",".join(sorted(issued.scopes)),
        "access_token": issued.access_token,
        "token_type": issued.family.kind,
    }
    if math.isfinite(issued.expires_at):
        members["expires_in"] = round(issued.expires_at - now)
    if issued.refresh_token is not None:
        members["refresh_token"] = issued.refresh_token
    return members


def _team() -> dict[str, JsonValue]:
    return {"team": {"id": TEAM_ID, "name": TEAM_NAME}, "enterprise": None, "is_enterprise_install": False}


def _split_scopes(scopes: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(scope.strip() for scope in scopes.split(",") if scope.strip()))
