"""What a family mode's tokens give access to: its identity endpoint, its operations, a probe for any scope, token
status."""

from __future__ import annotations

import re

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator import token_endpoint
from providers.simulator.accounts import PEOPLE
from providers.simulator.calls import SimulatedCall
from providers.simulator.families.answers import identity_body, iso
from providers.simulator.families.requests import face_name
from providers.simulator.families.token import resource_of
from providers.simulator.modes.model import Mode, Operation
from providers.simulator.state.books import Entry
from providers.simulator.state.sandbox import Sandbox, ServiceAPI
from providers.simulator.state.tokens import AccessToken


def identity(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """The account behind a token."""
    mode = sandbox.mode(face_name(call))
    token, entry = _present(sandbox, call, "identity")
    if call.method != mode.identity_method:
        entry["outcome"] = "method"
        return JSONResponse({"error": "method_not_allowed"}, status_code=405)
    if token is None or not _has_headers(mode, call):
        return _refuse_token(entry)
    if mode.identity_scopes and not mode.identity_scopes & _authority(mode, token):
        entry["outcome"] = "insufficient_scope"
        return JSONResponse({"error": "insufficient_scope"}, status_code=403)
    if mode.identity_query is not None and mode.identity_query not in str(call.arguments.get("query", "")):
        return JSONResponse({"errors": [{"message": "no such field"}]}, status_code=400)
    return JSONResponse(_with_flag(mode, identity_body(mode, PEOPLE[token.family.account])))


def probe(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """Answers only a token that has the scope in the query, directly or through one that includes it."""
    token, entry = _present(sandbox, call, "probe")
    if token is None:
        return _refuse_token(entry)
    wanted = frozenset(call.query.get("scope", "").split())
    return _answer(sandbox, call, token, entry, wanted=wanted)


def operation(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """One call of the mode's API; an operation outside its table doesn't exist."""
    mode = sandbox.mode(face_name(call))
    found = _operation(mode, call)
    token, entry = _present(sandbox, call, "api" if found is None else f"{found.method} {found.path}")
    if token is None:
        return _refuse_token(entry, sandbox.apis.get(mode.api))
    if found is None:
        entry["outcome"] = "unknown_operation"
        return JSONResponse({"error": "not_found"}, status_code=404)
    return _answer(sandbox, call, token, entry, wanted=found.scopes)


def status(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """What a token may do and until when; Square's `/oauth2/token/status`."""
    name = face_name(call)
    if not sandbox.mode(name).status:
        return JSONResponse({"error": "not_found"}, status_code=404)
    token, entry = _present(sandbox, call, "status")
    if token is None:
        return _refuse_token(entry)
    return JSONResponse(
        {
            "scopes": sorted(token.scopes),
            "expires_at": iso(token.expires_at),
            "client_id": token.family.client_id,
            "merchant_id": PEOPLE[token.family.account].google_id,
        }
    )


def _present(sandbox: Sandbox, call: SimulatedCall, method: str) -> tuple[AccessToken | None, Entry]:
    """The live token in the request, and the entry of this call in the books."""
    name, now = face_name(call), sandbox.clock.now()
    face = sandbox.face(name)
    token, entry = token_endpoint.note_api_call(sandbox, call, name, method, value=call.bearer)
    dead = token is None or face.tokens.is_dead(token) or now >= token.expires_at
    if token is None or dead or not sandbox.is_active(token.family.account):
        return None, entry
    return token, entry


def _answer(
    sandbox: Sandbox, call: SimulatedCall, token: AccessToken, entry: Entry, *, wanted: frozenset[str]
) -> Response:
    mode = sandbox.mode(face_name(call))
    api = sandbox.apis.get(mode.api)
    if wanted and not wanted & _authority(mode, token):
        entry["outcome"] = "insufficient_scope"
        if api is not None and api.refusal is not None:
            return api.refusal(403)
        needed = " ".join(sorted(wanted))
        return JSONResponse({"error": "insufficient_scope", "needed": needed}, status_code=403)
    if token.item is not None and not _is_within(token.item, call.path):
        entry["outcome"] = "other_item"
        return JSONResponse({"error": "not_found"}, status_code=404)
    if api is not None and "path" in call.path_params:
        return api.answer(sandbox, call, token)
    body: dict[str, JsonValue] = {"ok": True, "account": token.family.account, "path": call.path}
    return JSONResponse(body)


def _has_headers(mode: Mode, call: SimulatedCall) -> bool:
    others = all(call.headers.get(name.lower()) == value for name, value in mode.api_headers.items())
    return others and mode.token_header in call.headers


def _authority(mode: Mode, token: AccessToken) -> frozenset[str]:
    held = mode.expand(token.scopes)
    if mode.one_resource is None:
        return held
    return frozenset(scope for scope in held if resource_of(mode, scope) == mode.one_resource)


def _is_within(item: str, path: str) -> bool:
    """Whether the path names the item: one of `owner/a,b`, or the end of an item's URL."""
    if "://" in item:
        _, _, tail = item.partition("/api/")
        return f"/api/{tail}" in path
    owner, _, names = item.partition("/")
    return any(f"/repos/{owner}/{name}/" in f"{path}/" for name in names.split(","))


def _operation(mode: Mode, call: SimulatedCall) -> Operation | None:
    path = "/" + call.path_params["path"]
    for known in mode.operations:
        pattern = "".join("[^/]+" if part == "{}" else re.escape(part) for part in re.split(r"(\{\})", known.path))
        if known.method == call.method and re.fullmatch(pattern, path):
            return known
    return None


def _with_flag(mode: Mode, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return body if mode.shape.ok_flag is None else {mode.shape.ok_flag: True, **body}


def _refuse_token(entry: Entry, api: ServiceAPI | None = None) -> Response:
    entry["outcome"] = "invalid_token"
    if api is not None and api.refusal is not None:
        return api.refusal(401)
    headers = {"www-authenticate": 'Bearer error="invalid_token"'}
    return JSONResponse({"error": "invalid_token"}, status_code=401, headers=headers)
