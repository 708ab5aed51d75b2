"""The mail service's sign-in: a session for user and password, which can be renewed, expires, and can be signed out.
Each renewal replaces both tokens; the previous ones are refused from then on.
"""

from __future__ import annotations

import secrets
from typing import Final

from starlette.responses import JSONResponse, Response

from providers.simulator.calls import SimulatedCall
from providers.simulator.state.sandbox import Sandbox

SESSION: Final = "x-mailroom-session"
LIFETIME: Final = 3600  # seconds


def sign_in(sandbox: Sandbox, call: SimulatedCall, *, face: str) -> Response:
    """A session for `login.name` and `login.word`; 401 for others."""
    login = call.arguments.get("login")
    sent = login if isinstance(login, dict) else {}
    name, word = str(sent.get("name", "")), str(sent.get("word", ""))
    _note(sandbox, face, "sign_in", name)
    if not word or sandbox.keys.passwords.get(name) != word:
        return JSONResponse({"code": "bad_password", "message": f"{word} isn't the password"}, status_code=401)
    return _session(sandbox, name)


def renew(sandbox: Sandbox, call: SimulatedCall, *, face: str) -> Response:
    """Another session for the refresh token in `Authorization`."""
    found = next((one for one, (_, renewal) in sandbox.keys.sessions.items() if renewal == call.bearer), None)
    account = None if found is None else sandbox.keys.sessions.pop(found)[0]
    _note(sandbox, face, "renew", account)
    if account is None:
        return JSONResponse({"code": "unknown", "message": "sign in again"}, status_code=400)
    return _session(sandbox, account)


def sign_out(sandbox: Sandbox, call: SimulatedCall, *, face: str) -> Response:
    """End the session with this token, or with this refresh token."""
    sessions, renewal = sandbox.keys.sessions, call.bearer
    named = next((one for one, held in sessions.items() if held[1] == renewal), call.headers.get(SESSION, ""))
    found = sessions.pop(named, None)
    _note(sandbox, face, "sign_out", None if found is None else found[0])
    return Response(status_code=401 if found is None else 204)


def _session(sandbox: Sandbox, account: str) -> Response:
    token, renewal = f"session-{secrets.token_urlsafe(18)}", f"renewal-{secrets.token_urlsafe(18)}"
    sandbox.keys.sessions[token] = account, renewal
    return JSONResponse({"data": {"id": token, "renewal": renewal, "seconds": LIFETIME}})


def _note(sandbox: Sandbox, face: str, call: str, account: str | None) -> None:
    sandbox.books.write(face, sandbox.clock.now(), call=call, method="POST", way="session", account=account)
