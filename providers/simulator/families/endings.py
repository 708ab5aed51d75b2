"""The endpoints of a family mode that end tokens, and report whether one has ended."""

from __future__ import annotations

from starlette.responses import JSONResponse, Response

from providers.simulator import token_endpoint
from providers.simulator.accounts import PEOPLE
from providers.simulator.calls import SimulatedCall
from providers.simulator.families.answers import facts_of, refusal, success
from providers.simulator.families.requests import face_name, identify
from providers.simulator.modes.model import Mode
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.wire import ClientRefused


def revoke(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """The revocation endpoint, in the mode's own shape (RFC 7009 where it has none)."""
    name = face_name(call)
    mode, face = sandbox.mode(name), sandbox.face(name)
    ways = mode.revoking
    if not ways.exists or call.method != ways.method:
        return refusal(mode, "invalid_request", "There is no such endpoint.", status=404)
    try:
        if ways.client_auth:
            identify(call, sandbox.clients, allowed=ways.client_auth)
    except ClientRefused:
        return refusal(mode, "invalid_client", "The client has to authenticate.", status=401)
    if ways.token_in == "body" and ways.format not in ("any", "json" if call.is_json else "form"):
        return refusal(mode, "invalid_request", "The body is in the wrong format.")
    value = _token(mode, call)
    if ways.token_in == "account":
        return _deauthorize(sandbox, call, account=value)
    access, refresh = face.tokens.find_access(value), face.tokens.find_refresh(value)
    known = (access if "access" in ways.takes else None) or (refresh if "refresh" in ways.takes else None)
    dead = known is None or known.revoked or known.family.ended is not None
    entry = token_endpoint.note_revocation(sandbox, call, name, known, outcome="invalid_token" if dead else "revoked")
    if known is None or dead:
        if ways.unknown == "refused":
            return refusal(mode, "invalid_token", "The token is not known, or no longer good.")
        return success(mode, call, {}, status=200)
    token_endpoint.revoke(sandbox, entry, known)
    return success(mode, call, {}, status=200)


def _deauthorize(sandbox: Sandbox, call: SimulatedCall, *, account: str) -> Response:
    """End the named app's access to this account, by the account's ID here."""
    name = face_name(call)
    mode, face = sandbox.mode(name), sandbox.face(name)
    client_id = call.text("client_id") or ""
    people = [key for key, person in PEOPLE.items() if mode.account[0].format(**facts_of(person)) == account]
    families = [one for key in people for one in face.tokens.live_families(account=key, client_id=client_id)]
    token_endpoint.note_revocation(sandbox, call, name, None, outcome="revoked" if families else "invalid_token")
    if not families:
        return refusal(mode, "invalid_client", "The app is not connected to this account.")
    token_endpoint.end_grant(sandbox, families[0])
    return success(mode, call, {mode.revoking.name: account}, status=200)


def introspect(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """Whether a token is active (RFC 7662 §2.2); only for a client that authenticates."""
    name = face_name(call)
    mode, face, now = sandbox.mode(name), sandbox.face(name), sandbox.clock.now()
    try:
        identify(call, sandbox.clients, allowed=mode.client_auth)
    except ClientRefused:
        return refusal(mode, "invalid_client", "The client has to authenticate.", status=401)
    value = call.text("token") or ""
    access, refresh = face.tokens.find_access(value), face.tokens.find_refresh(value)
    is_active = access is not None and not face.tokens.is_dead(access) and now < access.expires_at
    if refresh is not None and refresh in face.tokens.live_refresh_tokens(refresh.family):
        is_active = True
    return JSONResponse({"active": is_active})


def _token(mode: Mode, call: SimulatedCall) -> str:
    ways = mode.revoking
    match ways.token_in:
        case "body" | "account":
            return call.text(ways.name) or ""
        case "query":
            return call.query.get(ways.name, "")
        case "path":
            return call.path_params.get("token", "")
        case "bearer":
            return call.bearer or ""
