"""The Slack face's Web API: checks the token, runs the method, keeps the books. Answers are HTTP 200 with `ok`."""

from __future__ import annotations

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator import token_endpoint
from providers.simulator.accounts import PEOPLE
from providers.simulator.calls import SimulatedCall
from providers.simulator.slack.caller import Caller, SlackRefused
from providers.simulator.slack.methods import METHODS, Method
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.state.tokens import AccessToken
from providers.simulator.state.workspace import BOT_USER


def call_method(sandbox: Sandbox, call: SimulatedCall, method: str) -> Response:
    """Check the token, run the method, keep the books."""
    face, now = sandbox.faces["slack"], sandbox.clock.now()
    value = call.bearer or call.text("token")
    token, entry = token_endpoint.note_api_call(sandbox, call, "slack", method, value=value)
    arguments = {**call.query, **call.arguments}
    headers: dict[str, str] = {}
    try:
        run = _find(method)
        live = _live_token(sandbox, value, token, now=now)
        headers["x-oauth-scopes"] = ",".join(sorted(live.scopes))
        caller = Caller(
            user=BOT_USER if live.family.kind == "bot" else PEOPLE[live.family.account].slack_id,
            token=live,
            arguments=arguments,
            workspace=sandbox.workspace,
            now=now,
            page_size=face.rules.page_size,
            write=sandbox.books.write,
        )
        body: dict[str, JsonValue] = {"ok": True, **run(caller)}
    except SlackRefused as refusal:
        entry["outcome"] = refusal.code
        return JSONResponse({"ok": False, "error": refusal.code, **refusal.facts}, headers=headers)
    if call.is_json and "charset" not in call.content_type.lower():
        body["warning"] = "missing_charset"
    return JSONResponse(body, headers=headers)


def _find(method: str) -> Method:
    run = METHODS.get(method)
    if run is None:
        raise SlackRefused("unknown_method", req_method=method)
    return run


def _live_token(sandbox: Sandbox, value: str | None, token: AccessToken | None, *, now: float) -> AccessToken:
    if value is None:
        raise SlackRefused("not_authed")
    if token is None:
        raise SlackRefused("invalid_auth")
    if sandbox.faces["slack"].tokens.is_dead(token):
        raise SlackRefused("token_revoked")
    if not sandbox.is_active(token.family.account):
        raise SlackRefused("account_inactive")
    if now >= token.expires_at:
        raise SlackRefused("token_expired")
    return token
