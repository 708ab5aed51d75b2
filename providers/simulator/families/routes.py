"""The addresses of the families' server: `/families/{mode}/...`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from providers.simulator.accounts import RegisteredClient
from providers.simulator.authorization_endpoint import authorization_handler
from providers.simulator.calls import SimulatedCall
from providers.simulator.families import resources
from providers.simulator.families.endings import introspect, revoke
from providers.simulator.families.requests import face_name, read_authorization, standard_query
from providers.simulator.families.scoped_tokens import scoped_token
from providers.simulator.families.token import endpoint_name, lengthen, renew, token
from providers.simulator.state.authorize import (
    RequestRefused,
    SimulatedRequest,
    check_redirect_uri,
    with_parameters,
)
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.wire import Endpoint, Handler, endpoint


def family_routes(sandbox: Sandbox) -> list[Route]:
    """All endpoints; the mode determines which of them exist."""
    at = "/families/{mode}"
    everything = ["GET", "POST", "PUT", "PATCH", "DELETE"]

    def route(path: str, name: str, handler: Handler, *methods: str) -> Route:
        return Route(
            f"{at}{path}", _for_known_modes(sandbox, endpoint(sandbox, face_name, name, handler)), methods=list(methods)
        )

    return [
        route("/authorize", "authorize", partial(_authorize, sandbox), "GET", "POST"),
        Route(
            f"{at}/token",
            _for_known_modes(sandbox, endpoint(sandbox, face_name, endpoint_name, partial(token, sandbox))),
            methods=["POST"],
        ),
        Route(
            f"{at}/refresh",
            _for_known_modes(sandbox, endpoint(sandbox, face_name, endpoint_name, partial(token, sandbox))),
            methods=["POST"],
        ),
        route("/renew", "token.refresh", partial(renew, sandbox), "GET"),
        route("/longer", "longer", partial(lengthen, sandbox), "GET"),
        route("/revoke", "revoke", partial(revoke, sandbox), "POST", "DELETE", "GET"),
        route("/revoke/{token:path}", "revoke", partial(revoke, sandbox), "POST", "DELETE", "GET"),
        route("/introspect", "introspect", partial(introspect, sandbox), "POST"),
        route("/identity", "identity", partial(resources.identity, sandbox), "GET", "POST"),
        route("/api/oauth2/token/status", "status", partial(resources.status, sandbox), "POST"),
        route("/probe", "probe", partial(resources.probe, sandbox), "GET"),
        route("/api/applications/{client_id}/token/scoped", "token.scoped", partial(scoped_token, sandbox), "POST"),
        route("/api/{path:path}", "api", partial(resources.operation, sandbox), *everything),
    ]


def _for_known_modes(sandbox: Sandbox, answer: Endpoint) -> Endpoint:
    """Only for modes that exist."""

    async def check_mode(request: Request) -> Response:
        if request.path_params["mode"] not in sandbox.modes:
            return JSONResponse({"error": "unknown mode", "known": sorted(sandbox.modes)}, status_code=404)
        return await answer(request)

    return check_mode


def _authorize(sandbox: Sandbox, call: SimulatedCall) -> Response:
    name = face_name(call)
    mode = sandbox.mode(name)
    call = replace(call, query=standard_query(mode, call.query))
    everything = mode.fixed_scopes is None and mode.shape.scope != "absent"

    def extra(_request: SimulatedRequest, _granted: frozenset[str]) -> dict[str, str]:
        return dict(mode.callback)

    if call.method == "GET" and mode.authorize_errors == "redirect":
        redirected = _refused_by_redirect(sandbox, name, call.query)
        if redirected is not None:
            return redirected
    handler = authorization_handler(
        sandbox,
        name,
        read=partial(read_authorization, sandbox, name),
        fixed_scopes=frozenset() if everything else None,
        extra=extra,
    )
    answer = handler(call)
    location = answer.headers.get("location")
    if location is not None and mode.code_name != "code":
        return RedirectResponse(location.replace("?code=", f"?{mode.code_name}=", 1), status_code=302)
    return answer


def _refused_by_redirect(sandbox: Sandbox, name: str, query: Mapping[str, str]) -> Response | None:
    """RFC 6749 §4.1.2.1: reported to the client, once client and redirect URI are known to be good."""
    client: RegisteredClient | None = sandbox.clients.get(query.get("client_id", ""))
    address = query.get("redirect_uri")
    if client is None or address is None:
        return None
    try:
        check_redirect_uri(client, address)
    except RequestRefused:
        return None
    try:
        read_authorization(sandbox, name, query, client)
    except RequestRefused as refused:
        state = {"state": query["state"]} if "state" in query else {}
        told = {"error": refused.error, "error_description": refused.description, **state}
        return RedirectResponse(with_parameters(address, told), status_code=302)
    return None
