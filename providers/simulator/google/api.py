"""The Google face's APIs: checks token and scope, runs the method, keeps the books."""

from __future__ import annotations

from starlette.responses import Response

from providers.simulator.accounts import PEOPLE
from providers.simulator.books import without_secrets
from providers.simulator.google.caller import GoogleCaller, GoogleRefused, Method
from providers.simulator.sandbox import Sandbox
from providers.simulator.tokens import AccessToken, fingerprint
from providers.simulator.wire import SimulatedCall

_UNAUTHENTICATED = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
    "authentication credential."
)


def call_method(sandbox: Sandbox, call: SimulatedCall, method: Method) -> Response:
    """Answer one API request. A token counts only in the Authorization header."""
    face, now = sandbox.faces["google"], sandbox.clock.now()
    token = None if call.bearer is None else face.tokens.find_access(call.bearer)
    entry = sandbox.books.write(
        "api_calls",
        now,
        face="google",
        method=method.name,
        http_method=call.method,
        path=call.path,
        token=None if token is None else token.label,
        token_hash=None if call.bearer is None else fingerprint(call.bearer),
        token_family=None if token is None else token.family.label,
        account=None if token is None else token.family.account,
        scopes=[] if token is None else sorted(token.scopes),
        query=without_secrets(call.query),
        body=without_secrets(call.arguments),
        outcome="ok",
        fault=call.fault,
    )
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
