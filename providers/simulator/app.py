"""Maps the simulator's endpoints to their addresses. Decides nothing."""

from __future__ import annotations

from functools import partial

from pydantic import JsonValue, TypeAdapter
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from providers.simulator.authorization_endpoint import authorization_handler
from providers.simulator.brokerage.api import brokerage_routes
from providers.simulator.calls import SimulatedCall
from providers.simulator.company.identity import company_routes
from providers.simulator.control import COMMANDS
from providers.simulator.families.routes import family_routes
from providers.simulator.google import api as google_api
from providers.simulator.google import errors, oauth
from providers.simulator.google.calendar_methods import (
    CALENDAR_LIST,
    DELETE_EVENT,
    FREE_BUSY,
    GET_CALENDAR,
    GET_EVENT,
    GET_LIST_ENTRY,
    INSERT_EVENT,
    LIST_EVENTS,
    PATCH_EVENT,
)
from providers.simulator.google.caller import Method
from providers.simulator.google.drive_methods import EXPORT_FILE, GET_FILE, LIST_FILES
from providers.simulator.google.gmail_methods import CREATE_DRAFT, GET_MESSAGE, LIST_MESSAGES, SEND_MESSAGE
from providers.simulator.google.identity import discovery, keys
from providers.simulator.mailroom.api import mailroom_routes
from providers.simulator.pages import home_page
from providers.simulator.slack import api as slack_api
from providers.simulator.slack import oauth as slack_oauth
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.state.tokens import fingerprint
from providers.simulator.wire import MAX_BODY, endpoint

_OBJECT: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])
_CALENDARS = "/google/calendar/v3/calendars/{calendar}"
_MAIL, _FILES = "/google/gmail/v1/users/me", "/google/drive/v3/files"
GOOGLE_APIS: tuple[tuple[str, str, Method], ...] = (
    ("GET", "/google/calendar/v3/users/me/calendarList", CALENDAR_LIST),
    ("GET", "/google/calendar/v3/users/me/calendarList/{calendar}", GET_LIST_ENTRY),
    ("POST", "/google/calendar/v3/freeBusy", FREE_BUSY),
    ("GET", _CALENDARS, GET_CALENDAR),
    ("GET", f"{_CALENDARS}/events", LIST_EVENTS),
    ("POST", f"{_CALENDARS}/events", INSERT_EVENT),
    ("GET", f"{_CALENDARS}/events/{{event}}", GET_EVENT),
    ("PATCH", f"{_CALENDARS}/events/{{event}}", PATCH_EVENT),
    ("DELETE", f"{_CALENDARS}/events/{{event}}", DELETE_EVENT),
    ("GET", f"{_MAIL}/messages", LIST_MESSAGES),
    ("POST", f"{_MAIL}/messages/send", SEND_MESSAGE),
    ("GET", f"{_MAIL}/messages/{{message}}", GET_MESSAGE),
    ("POST", f"{_MAIL}/drafts", CREATE_DRAFT),
    ("GET", _FILES, LIST_FILES),
    ("GET", f"{_FILES}/{{file}}", GET_FILE),
    ("GET", f"{_FILES}/{{file}}/export", EXPORT_FILE),
)


def build_app(sandbox: Sandbox) -> Starlette:
    """The whole simulator. It answers to loopback host names only."""
    return Starlette(
        routes=[
            *_slack_routes(sandbox),
            *_google_routes(sandbox),
            *brokerage_routes(sandbox),
            *mailroom_routes(sandbox),
            *company_routes(sandbox),
            *family_routes(sandbox),
            *_own_routes(sandbox),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)],
    )


def _slack_routes(sandbox: Sandbox) -> list[Route]:
    def authorize(path: str, *, user_only: bool) -> Route:
        read = slack_oauth.read_user_authorization if user_only else slack_oauth.read_authorization
        handler = authorization_handler(
            sandbox, "slack", read=partial(read, sandbox), fixed_scopes=None, extra=lambda _request, _granted: {}
        )
        return Route(path, endpoint(sandbox, "slack", "authorize", handler), methods=["GET", "POST"])

    def exchange(path: str, *, user_only: bool) -> Route:
        handler = partial(slack_oauth.token, sandbox, user_only=user_only)
        return Route(
            path, endpoint(sandbox, "slack", slack_oauth.token_endpoint_name, handler), methods=["GET", "POST"]
        )

    def api(call: SimulatedCall) -> Response:
        return slack_api.call_method(sandbox, call, call.path_params["method"])

    return [
        authorize("/slack/oauth/v2/authorize", user_only=False),
        authorize("/slack/oauth/v2_user/authorize", user_only=True),
        exchange("/slack/api/oauth.v2.access", user_only=False),
        exchange("/slack/api/oauth.v2.user.access", user_only=True),
        Route(
            "/slack/api/auth.revoke",
            endpoint(sandbox, "slack", "revoke", partial(slack_oauth.revoke, sandbox)),
            methods=["GET", "POST"],
        ),
        Route(
            "/slack/api/{method}",
            endpoint(sandbox, "slack", lambda call: f"api.{call.path_params['method']}", api),
            methods=["GET", "POST"],
        ),
    ]


def _google_routes(sandbox: Sandbox) -> list[Route]:
    authorize = authorization_handler(
        sandbox,
        "google",
        read=partial(oauth.read_authorization, sandbox),
        fixed_scopes=oauth.IDENTITY_SCOPES,
        extra=lambda _request, granted: oauth.success_parameters(sandbox, granted),
    )

    def google(verb: str, path: str, method: Method) -> Route:
        def api(call: SimulatedCall) -> Response:
            return google_api.call_method(sandbox, call, method)

        return Route(path, endpoint(sandbox, "google", f"api.{method.api}.{method.fault_name}", api), methods=[verb])

    def document(_call: SimulatedCall) -> Response:
        return discovery(sandbox, oauth.issuer(sandbox))

    return [
        Route("/google/o/oauth2/v2/auth", endpoint(sandbox, "google", "authorize", authorize), methods=["GET", "POST"]),
        Route(
            "/google/token",
            endpoint(sandbox, "google", slack_oauth.token_endpoint_name, partial(oauth.token, sandbox)),
            methods=["POST"],
        ),
        Route(
            "/google/revoke",
            endpoint(sandbox, "google", "revoke", partial(oauth.revoke, sandbox)),
            methods=["POST"],
        ),
        Route(
            "/google/oauth2/v3/userinfo",
            endpoint(sandbox, "google", "userinfo", partial(oauth.userinfo, sandbox)),
            methods=["GET", "POST"],
        ),
        Route(errors.PATH, endpoint(sandbox, "google", "error", errors.error_page)),
        Route("/google/.well-known/openid-configuration", endpoint(sandbox, "google", "discovery", document)),
        Route("/google/oauth2/v3/certs", endpoint(sandbox, "google", "keys", lambda _call: keys())),
        *(google(*route) for route in GOOGLE_APIS),
    ]


def _own_routes(sandbox: Sandbox) -> list[Route]:
    async def home(_request: Request) -> Response:
        ledger = sandbox.ledger()
        return home_page(posts=ledger["posts"], events=ledger["events"], families=ledger["families"])

    async def trap(request: Request) -> Response:
        """The target of scripted redirects: a caller must never send a credential here."""
        credential = request.headers.get("authorization")
        sandbox.books.write(
            "trapped",
            sandbox.clock.now(),
            method=request.method,
            has_authorization=credential is not None,
            token_hash=None if credential is None else fingerprint(credential.partition(" ")[2]),
            has_body=request.headers.get("content-length", "0") != "0",
        )
        return JSONResponse({"ok": True})

    async def books(_request: Request) -> Response:
        return JSONResponse(sandbox.ledger())

    async def state(_request: Request) -> Response:
        return JSONResponse(
            {
                "now": sandbox.clock.now(),
                "held": sandbox.faults.held,
                "faults": [fault.model_dump(mode="json") for fault in sandbox.faults.queue],
                "rules": {name: face.rules.model_dump(mode="json") for name, face in sandbox.faces.items()},
            }
        )

    async def control(request: Request) -> Response:
        return await _control(sandbox, request)

    return [
        Route("/", home),
        Route("/_trap", trap, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        Route("/_control/books", books),
        Route("/_control/state", state),
        Route("/_control/{command}", control, methods=["POST"]),
    ]


async def _control(sandbox: Sandbox, request: Request) -> Response:
    """JSON content type only, because a page in the person's browser can't send that across origins."""
    command = COMMANDS.get(request.path_params["command"])
    if command is None:
        return JSONResponse({"error": "unknown command", "known": sorted(COMMANDS)}, status_code=404)
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        return JSONResponse({"error": "application/json expected"}, status_code=415)
    body = await request.body()
    if len(body) > MAX_BODY:
        return JSONResponse({"error": "too large"}, status_code=413)
    try:
        return JSONResponse({"ok": True, **command(sandbox, _OBJECT.validate_json(body or b"{}"))})
    except ValueError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
