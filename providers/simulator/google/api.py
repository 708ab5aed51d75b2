"""The Google face's APIs: checks token and scope, runs the method, keeps the books."""

from __future__ import annotations

from starlette.responses import Response

from providers.simulator import token_endpoint
from providers.simulator.accounts import PEOPLE
from providers.simulator.calls import SimulatedCall
from providers.simulator.google.caller import GoogleCaller, GoogleRefused, Method
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.state.tokens import AccessToken

_UNAUTHENTICATED = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
    "authentication credential."
)


def call_method(sandbox: Sandbox, call: SimulatedCall, method: Method) -> Response:
    """Answer one API request. A token counts only in the Authorization header."""
    face, now = sandbox.faces["google"], sandbox.clock.now()
    token, entry = token_endpoint.note_api_call(sandbox, call, "google", method.name, value=call.bearer)
    try:
        live = _live_token(sandbox, token, method, now=now)
        return method.run(
            GoogleCaller(
                person=PEOPLE[live.family.account],
                token=live,
                path=call.path_params,
                query=call.query,
                body=call.arguments,
                calendars=sandbox.calendars,
                mailboxes=sandbox.mailboxes,
                drives=sandbox.drives,
                now=now,
                page_size=face.rules.page_size,
                write=sandbox.books.write,
            )
        )
    except GoogleRefused as refusal:
        entry["outcome"] = refusal.reason
        return refusal.answer(method)


def _live_token(sandbox: Sandbox, token: AccessToken | None, method: Method, *, now: float) -> AccessToken:
    if (
        token is None
        or sandbox.faces["google"].tokens.is_dead(token)
        or not sandbox.is_active(token.family.account)
        or now >= token.expires_at
    ):
        raise GoogleRefused(401, "authError", _UNAUTHENTICATED)
    if not token.scopes & method.scopes:
        message = "Request had insufficient authentication scopes."
        raise GoogleRefused(403, "insufficientPermissions", message, required=method.scopes)
    client = sandbox.clients.get(token.family.client_id)
    if not sandbox.faces["google"].rules.api_enabled or (client is not None and not client.api_enabled):
        raise GoogleRefused(403, "accessNotConfigured", method.not_enabled)
    return token
