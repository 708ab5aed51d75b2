"""A site of MCP servers behind OAuth, written without a library; correct unless a test says what to do wrong.

Each server has its own authorization server below its path. People at `/authorize` agree at once. It records the
requests; a token works only for the resource that it was requested for.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.support.harness import free_socket, serve_app

ADD: dict[str, Any] = {
    "name": "add",
    "description": "Add two numbers.",
    "inputSchema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
    "outputSchema": {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]},
    "annotations": {"readOnlyHint": True},
}
NOTE: dict[str, Any] = {
    "name": "note",
    "description": "Write a note.",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}, "account": {"type": "string"}}},
}


@dataclass
class RemoteDouble:
    """One server. `results`: what `tools/call` answers, by tool; `scope_of`: what a tool needs beyond `mcp:read`."""

    base: str
    tools: list[dict[str, Any]] = field(default_factory=lambda: [ADD, NOTE])
    results: dict[str, Any] = field(default_factory=dict)
    scope_of: dict[str, str] = field(default_factory=dict)
    resource: str = ""
    issuer: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)  # replaces members of the authorization server's metadata
    challenge: str | None = None  # instead of the right one
    answer: Response | None = None  # the answer to every tool call
    page: int = 100
    ending: Response | None = None  # to DELETE; with it, there are sessions
    key: tuple[str, str] | None = None  # header and value, in place of OAuth
    secret_ends: int = 0  # of every client that has one
    is_open: bool = False  # asks for nothing
    status: int = 0  # of every answer
    seen: list[dict[str, str]] = field(default_factory=list)  # headers of the requests
    behind: str = ""  # an MCP server without OAuth of its own, which gets what comes with a token
    calls: list[dict[str, Any]] = field(default_factory=list)
    lists: int = 0
    asked: list[dict[str, str]] = field(default_factory=list)  # at /authorize
    token_requests: list[dict[str, str]] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    registrations: list[dict[str, Any]] = field(default_factory=list)
    renewed_end: int | None = None  # of the secret that PUT makes; None: nothing is renewed
    read_changes: dict[str, Any] = field(default_factory=dict)  # of the answer to GET there; None leaves a member out
    update_changes: dict[str, Any] = field(default_factory=dict)  # of the answer to PUT
    update_status: int = 200
    managed: list[str] = field(default_factory=list)  # methods at the client configuration endpoint
    ended: list[str] = field(default_factory=list)  # clients that were deleted there
    manage_tokens: dict[str, str] = field(default_factory=dict)  # by client ID, where reading changed it
    secrets: dict[str, str] = field(default_factory=dict)  # by client ID, the one that works
    tokens: dict[str, dict[str, str]] = field(default_factory=dict)
    refreshing: dict[str, dict[str, str]] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{self.base}/mcp"

    def end_tokens(self) -> None:
        """Make all access tokens stop working."""
        self.tokens.clear()

    def own_metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.base,
            "authorization_endpoint": f"{self.base}/authorize",
            "token_endpoint": f"{self.base}/token",
            "registration_endpoint": f"{self.base}/register",
            "revocation_endpoint": f"{self.base}/revoke",
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_post"],
            "scopes_supported": ["mcp:read", "mcp:write", "offline_access"],
            "authorization_response_iss_parameter_supported": True,
        } | self.metadata


class RemoteSite:
    """The servers by name, at one origin."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.servers: dict[str, RemoteDouble] = {}

    def add(self, name: str, **changes: Any) -> RemoteDouble:
        self.servers[name] = server = RemoteDouble(f"{self.origin}/{name}", **changes)
        return server

    def of(self, request: Request) -> RemoteDouble:
        return self.servers[request.path_params["name"]]

    async def protected_resource_metadata(self, request: Request) -> Response:
        server = self.of(request)
        return JSONResponse(
            {
                "resource": server.resource or server.url,
                "authorization_servers": [server.issuer or server.base],
                "scopes_supported": ["mcp:read", "mcp:write"],
            }
        )

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(self.of(request).own_metadata())

    async def register(self, request: Request) -> Response:
        server = self.of(request)
        about = await request.json()
        server.registrations.append(about)
        if about["token_endpoint_auth_method"] == "none":
            return JSONResponse({**about, "client_id": f"client-{len(server.registrations)}"}, status_code=201)
        made = {**about, "client_id": f"client-{len(server.registrations)}", "client_secret": "made-up-" + "s" * 24}
        if server.renewed_end is not None:
            made |= {"registration_client_uri": f"{server.base}/register/{made['client_id']}"}
            made |= {"registration_access_token": "manage-" + made["client_id"]}
        server.secrets[made["client_id"]] = made["client_secret"]
        made |= {"client_secret_expires_at": server.secret_ends} if server.secret_ends else {}
        return JSONResponse(made, status_code=201)

    async def manage(self, request: Request) -> Response:
        """The client configuration endpoint (RFC 7592 §2)."""
        server, client = self.of(request), request.path_params["client"]
        server.managed.append(request.method)
        token = server.manage_tokens.get(client, f"manage-{client}")
        if request.headers.get("authorization") != f"Bearer {token}":
            return Response(status_code=401)
        if request.method == "DELETE":
            server.ended.append(client)
            return Response(status_code=204)
        about = server.registrations[int(client.rpartition("-")[2]) - 1]
        shown = {**about, "client_id": client, "client_secret_expires_at": server.secret_ends}
        if request.method == "GET":
            server.manage_tokens[client] = server.read_changes.get("registration_access_token", token)
            server.secrets[client] = server.read_changes.get("client_secret", server.secrets[client])
            return JSONResponse(_without_none(shown | server.read_changes))
        if server.update_status != 200:
            return Response(status_code=server.update_status)
        sent = await request.json()
        assert not {"registration_access_token", "client_secret_expires_at"} & sent.keys()
        assert sent["redirect_uris"] == about["redirect_uris"]
        server.secrets[client] = "renewed-" + "s" * 24
        end = {"client_secret_expires_at": server.renewed_end}
        made = {**shown, **end, "client_secret": server.secrets[client]}
        return JSONResponse(_without_none(made | server.update_changes))

    async def authorize(self, request: Request) -> Response:
        server, asked = self.of(request), dict(request.query_params)
        server.asked.append(asked)
        code = secrets.token_urlsafe(16)
        server.codes[code] = asked
        back = {"code": code, "state": asked["state"], "iss": server.base}
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(back)}", status_code=302)

    async def token(self, request: Request) -> Response:
        server, asked = self.of(request), {k: str(v) for k, v in (await request.form()).items()}
        server.token_requests.append(asked)
        if asked["grant_type"] == "refresh_token":
            held = server.refreshing.pop(asked["refresh_token"], None)
        else:
            held = server.codes.pop(asked["code"], None)
            digest = hashlib.sha256(asked["code_verifier"].encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            held = held if held is not None and held["code_challenge"] == challenge else None
        if held is None:
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        access, refresh = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        granted = {"scope": held.get("scope", ""), "resource": asked.get("resource", "")}
        server.tokens[access], server.refreshing[refresh] = granted, held
        answer = {"access_token": access, "token_type": "Bearer", "expires_in": 3600, "refresh_token": refresh}
        return JSONResponse({**answer, "scope": granted["scope"]})

    async def revoke(self, request: Request) -> Response:
        server, asked = self.of(request), await request.form()
        server.revoked.append(str(asked["token"]))
        return Response()

    async def mcp(self, request: Request) -> Response:
        server = self.of(request)
        held = server.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        server.seen.append(dict(request.headers))
        if server.status:
            return Response(status_code=server.status, headers={"Location": f"{server.url}/"})
        if server.is_open or (server.key is not None and request.headers.get(server.key[0]) == server.key[1]):
            held = {"scope": "mcp:read", "resource": server.resource or server.url}
        elif server.key is not None:
            return JSONResponse({"error": "no key"}, status_code=401)
        if held is None or held["resource"] != (server.resource or server.url):
            path = server.url.removeprefix(f"{self.origin}/")
            document = f"{self.origin}/.well-known/oauth-protected-resource/{path}"
            named = f'Bearer resource_metadata="{document}", scope="mcp:read"'
            return Response(status_code=401, headers={"WWW-Authenticate": server.challenge or named})
        if server.behind:
            return await _forward(request, server.behind)
        if request.method == "DELETE" and server.ending is not None:
            return server.ending
        if request.method != "POST":
            return Response(status_code=405)
        message = await request.json()
        if "id" not in message:
            return Response(status_code=202)
        method, params = message["method"], message.get("params") or {}
        if method == "initialize":
            result: Any = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "double", "version": "1"},
            }
        elif method == "tools/list":
            server.lists += 1
            at = int(params.get("cursor") or 0)
            result = {"tools": server.tools[at : at + server.page]}
            if at + server.page < len(server.tools):
                result["nextCursor"] = str(at + server.page)
        elif method == "tools/call":
            needed = server.scope_of.get(params["name"], "mcp:read")
            if needed not in held["scope"].split():
                said = f'Bearer error="insufficient_scope", scope="mcp:read {needed}"'
                return Response(status_code=403, headers={"WWW-Authenticate": said})
            server.calls.append(params)
            if server.answer is not None:
                return server.answer
            result = server.results.get(params["name"]) or _result_of(params)
        else:
            error = {"code": -32601, "message": "Method not found"}
            return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "error": error}, status_code=404)
        headers = {"mcp-session-id": "one"} if server.ending is not None and method == "initialize" else {}
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result}, headers=headers)

    def app(self) -> Starlette:
        routes = [
            Route("/.well-known/oauth-protected-resource/{name}/mcp", self.protected_resource_metadata),
            Route("/{name}/.well-known/openid-configuration", self.metadata),
            Route("/{name}/register", self.register, methods=["POST"]),
            Route("/{name}/register/{client}", self.manage, methods=["GET", "PUT", "DELETE"]),
            Route("/{name}/authorize", self.authorize),
            Route("/{name}/token", self.token, methods=["POST"]),
            Route("/{name}/revoke", self.revoke, methods=["POST"]),
            Route("/{name}/mcp", self.mcp, methods=["GET", "POST", "DELETE"]),
        ]
        return Starlette(routes=routes)


def _without_none(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if value is not None}


async def _forward(request: Request, url: str) -> Response:
    """Pass the request on to the server behind it, without the token."""
    passed = {
        name: value for name, value in request.headers.items() if name.startswith(("accept", "content-type", "mcp-"))
    }
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await http.request(request.method, url, headers=passed, content=await request.body())
    shown = {name: value for name, value in answer.headers.items() if name.startswith(("content-type", "mcp-"))}
    return Response(answer.content, status_code=answer.status_code, headers=shown)


def _result_of(params: dict[str, Any]) -> dict[str, Any]:
    arguments = params.get("arguments") or {}
    if params["name"] == "add":
        total = arguments["a"] + arguments["b"]
        return {"content": [{"type": "text", "text": str(total)}], "structuredContent": {"sum": total}}
    return {"content": [{"type": "text", "text": f"noted {arguments.get('text', '')}"}]}


@asynccontextmanager
async def running_site() -> AsyncGenerator[RemoteSite]:
    """The site on a free port."""
    listening = free_socket()
    site = RemoteSite(f"http://127.0.0.1:{listening.getsockname()[1]}")
    async with serve_app(site.app(), listening):
        yield site


async def agree(url: str) -> str:
    """Open the server's consent page as a person who agrees; return the URL that it leads to."""
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await http.get(url)
    assert answer.status_code == 302, answer.text
    return answer.headers["location"]
