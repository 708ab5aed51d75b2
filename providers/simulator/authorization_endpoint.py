"""The authorization endpoint of both faces: validate, show the page, take the decision, redirect the browser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from starlette.responses import RedirectResponse, Response

from providers.simulator.accounts import Face, RegisteredClient
from providers.simulator.calls import SimulatedCall
from providers.simulator.google.errors import error_location
from providers.simulator.pages import ConsentView, consent_page, refused_page
from providers.simulator.state.authorize import (
    ConsentDecision,
    RequestRefused,
    SimulatedRequest,
    check_redirect_uri,
    with_parameters,
)
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.wire import Handler

ReadRequest = Callable[[Mapping[str, str], RegisteredClient], SimulatedRequest]
SuccessParameters = Callable[[SimulatedRequest, frozenset[str]], dict[str, str]]
_NOT_A_TESTER = (
    "This app has not completed the Google verification process. The app is currently being tested, and can only be "
    "accessed by developer-approved testers. If you think you should have access, contact the developer."
)
_SLACK_WORDS = {"redirect_uri_mismatch": "bad_redirect_uri", "invalid_client": "invalid_client_id"}


def authorization_handler(
    sandbox: Sandbox,
    face: Face,
    *,
    read: ReadRequest,
    fixed_scopes: frozenset[str] | None,
    extra: SuccessParameters,
) -> Handler:
    """GET validates and shows the page, POST decides. The person can't clear `fixed_scopes`; None: no scope can be
    cleared."""

    def answer(call: SimulatedCall) -> Response:
        if call.method == "POST":
            return _decide(sandbox, face, call, fixed_scopes=fixed_scopes, extra=extra)
        try:
            request = _validate(sandbox, call.query, read)
        except RequestRefused as refusal:
            return _refuse(face, refusal, redirect_uri=call.query.get("redirect_uri", ""))
        _record(sandbox, request, call.query)
        auto = sandbox.face(face).auto_consent
        if auto is not None:
            return _finish(sandbox, request, auto, fixed_scopes=fixed_scopes, extra=extra)
        return _page(sandbox, request, action=call.path, fixed_scopes=fixed_scopes)

    return answer


def _refuse(face: Face, refusal: RequestRefused, *, redirect_uri: str) -> Response:
    """Slack shows it on this page, Google redirects the browser to an error page; both before anyone signs in."""
    if face == "google":
        return RedirectResponse(error_location(refusal.error, refusal.description), status_code=302)
    error, description = _SLACK_WORDS.get(refusal.error, refusal.error), refusal.description
    if error == "bad_redirect_uri":
        description = f"redirect_uri did not match any configured URIs. Passed URI: {redirect_uri}"
    return refused_page(face, error=error, description=description)


def _validate(sandbox: Sandbox, query: Mapping[str, str], read: ReadRequest) -> SimulatedRequest:
    client = sandbox.clients.get(query.get("client_id", ""))
    if client is None:
        raise RequestRefused("invalid_client", "No client with this client_id is registered here.")
    redirect_uri = query.get("redirect_uri")
    if not redirect_uri:
        raise RequestRefused("redirect_uri_mismatch", "redirect_uri is missing.")
    check_redirect_uri(client, redirect_uri)
    return read(query, client)


def _page(sandbox: Sandbox, request: SimulatedRequest, *, action: str, fixed_scopes: frozenset[str] | None) -> Response:
    handle = sandbox.face(request.face).authorizations.begin(request)
    everything = (*request.bot_scopes, *request.scopes)
    fixed = everything if fixed_scopes is None else tuple(scope for scope in everything if scope in fixed_scopes)
    hint = (request.login_hint or "").partition("@")[0]
    view = ConsentView(
        handle=handle,
        action=action,
        client=request.client.name,
        returns_to=urlsplit(request.redirect_uri).netloc,
        fixed=fixed,
        choices=tuple(scope for scope in everything if scope not in fixed),
        selected=hint if sandbox.is_active(hint) else "alice",
    )
    return consent_page(request.face, view)


def _decide(
    sandbox: Sandbox, face: Face, call: SimulatedCall, *, fixed_scopes: frozenset[str] | None, extra: SuccessParameters
) -> Response:
    request = sandbox.face(face).authorizations.take(call.text("request") or "", now=sandbox.clock.now())
    if request is None:
        return refused_page(face, error="invalid_request", description="This page was already answered, or is too old.")
    ticked = frozenset(
        value for name, value in call.arguments.items() if name.startswith("allow_") and isinstance(value, str)
    )
    decision = ConsentDecision(
        account=call.text("account") or "",
        allow=call.text("decision") == "allow",
        scopes=ticked if fixed_scopes is not None else None,
    )
    return _finish(sandbox, request, decision, fixed_scopes=fixed_scopes, extra=extra)


def _finish(
    sandbox: Sandbox,
    request: SimulatedRequest,
    decision: ConsentDecision,
    *,
    fixed_scopes: frozenset[str] | None,
    extra: SuccessParameters,
) -> Response:
    now = sandbox.clock.now()
    face = sandbox.face(request.face)
    testers = request.client.test_users
    if testers is not None and decision.account not in testers:
        return refused_page(request.face, error="access_denied", description=_NOT_A_TESTER, status=403)
    asked = frozenset(request.scopes)
    granted = asked if decision.scopes is None else asked & (decision.scopes | (fixed_scopes or frozenset()))
    allowed = decision.allow and sandbox.is_active(decision.account) and bool(granted or request.bot_scopes)
    sandbox.books.write(
        "consents",
        now,
        face=request.face,
        account=decision.account,
        allowed=allowed,
        asked=sorted(asked),
        granted=sorted(granted) if allowed else [],
    )
    state = {} if request.state is None else {"state": request.state}
    if not allowed:
        return _back(request, {"error": "access_denied", **state})
    first = face.authorizations.remember_consent(decision.account, request.client.client_id, granted)
    earlier = face.authorizations.consented_scopes(decision.account, request.client.client_id)
    if face.rules.additive_scopes or request.include_granted:
        granted |= earlier
    code = face.authorizations.issue_code(
        request, account=decision.account, scopes=granted, first_consent=first, now=now
    )
    return _back(request, {"code": code, **state, **extra(request, granted)})


def _back(request: SimulatedRequest, parameters: dict[str, str]) -> Response:
    return RedirectResponse(with_parameters(request.redirect_uri, parameters), status_code=302)


def _record(sandbox: Sandbox, request: SimulatedRequest, query: Mapping[str, str]) -> None:
    sandbox.books.write(
        "authorizations",
        sandbox.clock.now(),
        face=request.face,
        client_id=request.client.client_id,
        redirect_uri=request.redirect_uri,
        scopes=list(request.scopes),
        bot_scopes=list(request.bot_scopes),
        has_state=request.state is not None,
        challenge_method=request.challenge_method if request.challenge is not None else None,
        has_nonce=request.nonce is not None,
        offline=request.offline,
        prompt=sorted(request.prompt),
        parameters=sorted(query),
    )
