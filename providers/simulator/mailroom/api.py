"""A mail service with API keys: in a header, as a bearer token, as Basic, or in the query. The books record which way.

`/echo` repeats its input in an error, as careless services do; `/elsewhere` redirects to another address.
"""

from __future__ import annotations

import secrets
from typing import Final

from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from providers.simulator.calls import SimulatedCall
from providers.simulator.mailroom.private_keys import account_of_signed, answer_assertion, answer_installation
from providers.simulator.mailroom.sign_in import SESSION, renew, sign_in, sign_out
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.wire import endpoint

FACE: Final = "mailroom"
LIFETIME: Final = 3600  # seconds, of a token that client credentials get


def mailroom_routes(sandbox: Sandbox) -> list[Route]:
    """The endpoints of its API."""

    def route(path: str, name: str, *methods: str) -> Route:
        def handler(call: SimulatedCall) -> Response:
            return _answer(sandbox, call, name)

        return Route(f"/{FACE}/v1{path}", endpoint(sandbox, FACE, f"api.{name}", handler), methods=list(methods))

    def token(call: SimulatedCall) -> Response:
        return _token(sandbox, call)

    def assertion(call: SimulatedCall) -> Response:
        return answer_assertion(sandbox, call)

    def installation(call: SimulatedCall) -> Response:
        return answer_installation(sandbox, call)

    def signing_in(call: SimulatedCall) -> Response:
        return sign_in(sandbox, call, face=FACE)

    def renewal(call: SimulatedCall) -> Response:
        return renew(sandbox, call, face=FACE)

    def signing_out(call: SimulatedCall) -> Response:
        return sign_out(sandbox, call, face=FACE)

    path = f"/{FACE}/installations/{{id}}/access_tokens"
    return [
        Route(f"/{FACE}/assertion", endpoint(sandbox, FACE, "assertion", assertion), methods=["POST"]),
        Route(path, endpoint(sandbox, FACE, "installation", installation), methods=["POST"]),
        Route(f"/{FACE}/session", endpoint(sandbox, FACE, "sign_in", signing_in), methods=["POST"]),
        Route(f"/{FACE}/session/renewal", endpoint(sandbox, FACE, "renew", renewal), methods=["POST"]),
        Route(f"/{FACE}/session", endpoint(sandbox, FACE, "sign_out", signing_out), methods=["DELETE"]),
        Route(f"/{FACE}/token", endpoint(sandbox, FACE, "token", token), methods=["POST"]),
        route("/me", "me", "GET"),
        route("/messages", "messages", "GET", "POST"),
        route("/echo", "echo", "GET", "POST"),
        route("/elsewhere", "elsewhere", "GET"),
        route("/keys", "keys", "POST"),
    ]


def _key_of(call: SimulatedCall) -> tuple[str, str]:
    """The key of a request, and the way in which it was sent."""
    if key := call.headers.get("x-mailroom-key"):
        return key, "header"
    if key := call.headers.get(SESSION):
        return key, "session"
    if call.basic is not None:
        return (call.basic[0], "user") if not call.basic[1] else (call.basic[1], "password")
    if call.bearer:
        return call.bearer, "bearer"
    return call.query.get("key", ""), "query"


def _answer(sandbox: Sandbox, call: SimulatedCall, name: str) -> Response:
    key, way = _key_of(call)
    keys = sandbox.keys
    account = keys.accounts.get(key) or keys.tokens.get(key) or keys.sessions.get(key, ("", ""))[0] or None
    may = key not in keys.scopes or ("write" if call.method == "POST" else "read") in keys.scopes[key]
    signed = account_of_signed(sandbox, key, operation=f"{call.method} /v1/{name}") if account is None else None
    if signed is not None:
        (account, may), way = signed, "signed"
    sandbox.books.write(FACE, sandbox.clock.now(), call=name, method=call.method, way=way, account=account)
    if account is None:
        return JSONResponse({"code": "bad_key", "message": f"The key {key} is not known."}, status_code=401)
    if not may:
        return JSONResponse({"code": "not_allowed", "message": "The token isn't for this."}, status_code=403)
    match name:
        case "me":
            return JSONResponse({"id": f"box-{account}", "email": f"{account}@mailroom.example"})
        case "echo":
            return JSONResponse({"code": "careless", "message": f"bad request with {key}"}, status_code=400)
        case "elsewhere":
            return RedirectResponse(f"{sandbox.url}/_trap")
        case "keys":
            return JSONResponse({"key": keys.make(account)})
        case _ if call.method == "POST":
            return JSONResponse({"id": "m2", "to": call.text("to")})
        case _:
            return JSONResponse({"messages": [{"id": "m1", "subject": f"For {account}"}]})


def _token(sandbox: Sandbox, call: SimulatedCall) -> Response:
    """RFC 6749 §4.4.2."""
    client_id, secret = call.basic or (call.text("client_id") or "", call.text("client_secret") or "")
    known = sandbox.keys.clients.get(client_id)
    sandbox.books.write(FACE, sandbox.clock.now(), call="token", method="POST", way=call.text("grant_type"))
    if known is None or known[0] != secret or call.text("grant_type") != "client_credentials":
        return JSONResponse({"error": "invalid_client"}, status_code=401)
    token = secrets.token_urlsafe(24)
    sandbox.keys.tokens[token] = known[1]
    return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": LIFETIME})
