"""A strict layer in front of emulate (npm, Vercel Labs): refuses what emulate wrongly accepts, passes the rest on.

emulate takes any bearer token for its first user, checks few scopes and no expiry, and stores no PKCE challenge for
some services, so a vault that sent garbage would pass with emulate alone. This layer keeps its own records: which codes
and tokens emulate issued, for which scopes, and until when. It adds what the services have and emulate lacks (narrower
tokens, some revocations). It is independent of our provider files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Form = dict[str, str]
NEVER = 10**9  # seconds


@dataclass(frozen=True)
class App:
    """Our registration at the service."""

    client_id: str
    client_secret: str
    redirect_uri: str
    scopes: frozenset[str]


@dataclass(frozen=True)
class Face:
    """How one service behaves; a call needs any one of the scopes in `needs`, None if there is no such call."""

    authorize: str
    pick: str  # where emulate's page sends the account that was picked
    token: str
    needs: Callable[[str, str], frozenset[str] | None]
    scope_param: str = "scope"
    separator: str = " "
    client_auth: Literal["client_secret_basic", "client_secret_post"] = "client_secret_post"
    pkce: Literal["required", "refused"] = "required"
    revoke: str | None = None
    root: str | None = None  # the member of a token answer that contains the person's tokens
    app_level: bool = False  # scopes are set on the app and not requested, and write includes read
    always: frozenset[str] = frozenset()  # scopes that the service adds
    lifetime: int = NEVER
    narrows: bool = False  # `scope` on refresh returns a narrower token
    errors: Literal["http", "ok_flag"] = "http"


@dataclass
class Authority:
    """A person's consent: everything issued for it ends with it."""

    scopes: frozenset[str]
    is_live: bool = True


@dataclass(frozen=True)
class IssuedToken:
    """A token that this layer has seen emulate issue, or that was made from one."""

    authority: Authority
    scopes: frozenset[str]
    ends_at: int
    real: str  # its name at emulate


@dataclass(frozen=True)
class AuthorizationRequest:
    """An authorization request, or the code that resulted from it."""

    challenge: str | None
    scopes: frozenset[str]


@dataclass
class Books:
    """What happened: calls with the scopes of their token, and refusals by reason."""

    calls: list[tuple[str, str, frozenset[str]]] = field(default_factory=list[tuple[str, str, frozenset[str]]])
    refusals: list[str] = field(default_factory=list[str])
    refreshes: int = 0


class Refusal(Exception):
    """A request that this layer refuses."""

    def __init__(self, code: str, status: int = 400) -> None:
        super().__init__(code)
        self.code, self.status = code, status


def challenge_of(verifier: str) -> str:
    """RFC 7636 §4.2."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


class StrictLayer:
    """One service of emulate at `upstream`, behind one origin."""

    def __init__(self, face: Face, app: App, upstream: str) -> None:
        self.face, self.app, self.books = face, app, Books()
        self.now = 0  # seconds; tests move it
        self._requests: dict[str, AuthorizationRequest] = {}  # by state
        self._codes: dict[str, AuthorizationRequest | Authority] = {}  # the grant that the code was redeemed for
        self._access: dict[str, IssuedToken] = {}
        self._refresh: dict[str, Authority] = {}
        self._http = httpx2.AsyncClient(base_url=upstream, timeout=20, trust_env=False)
        methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        self.asgi = Starlette(routes=[Route("/{path:path}", self._handle, methods=methods)])

    async def aclose(self) -> None:
        await self._http.aclose()

    def is_live(self, token: str) -> bool:
        """Whether this layer would accept this access token now."""
        held = self._access.get(token)
        return held is not None and held.authority.is_live and self.now < held.ends_at

    async def _handle(self, request: Request) -> Response:
        path = request.url.path
        try:
            if path == self.face.authorize:
                return await self._authorize(request)
            if path == self.face.pick:
                return await self._pick(request)
            if path == self.face.token:
                return await self._token(request)
            if path == self.face.revoke:
                return await self._revoke(request)
            if path == f"/applications/{self.app.client_id}/grant":
                return await self._end_grant(request)
            return await self._call(request)
        except Refusal as refused:
            self.books.refusals.append(refused.code)
            if self.face.errors == "ok_flag":
                return JSONResponse({"ok": False, "error": refused.code})
            return JSONResponse({"error": refused.code, "message": refused.code}, status_code=refused.status)

    async def _pass(self, request: Request, *, body: bytes | None = None, token: str | None = None) -> httpx2.Response:
        kept = {name: value for name, value in request.headers.items() if name in {"content-type", "accept"}}
        if token is not None:
            kept["authorization"] = f"Bearer {token}"
        body, method = await request.body() if body is None else body, request.method
        if self.face.errors == "ok_flag" and method == "GET" and token is not None:
            # Slack accepts arguments from either; emulate has no GET
            body, method, kept["content-type"] = request.url.query.encode(), "POST", "application/x-www-form-urlencoded"
        return await self._http.request(method, request.url.path, params=request.url.query, content=body, headers=kept)

    def _scopes(self, text: str) -> frozenset[str]:
        return frozenset(part for part in re.split(rf"[{re.escape(self.face.separator)}]", text) if part)

    async def _authorize(self, request: Request) -> Response:
        query = request.query_params
        _refuse_unless(query.get("client_id") == self.app.client_id, "unknown client")
        _refuse_unless(query.get("redirect_uri") == self.app.redirect_uri, "another redirect address")
        _refuse_unless(query.get("response_type", "code") == "code", "unsupported_response_type")
        _refuse_unless(len(query.get("state", "")) >= 16, "no state")
        challenge, method = query.get("code_challenge"), query.get("code_challenge_method")
        if self.face.pkce == "required":
            _refuse_unless(challenge is not None and method == "S256", "no S256 challenge")
        else:
            _refuse_unless(challenge is None, "a challenge that is not allowed")
        scopes = self._scopes(query.get(self.face.scope_param, ""))
        if self.face.app_level:
            _refuse_unless(not scopes, "scopes that nobody asks for")
            scopes = self.app.scopes | {scope.replace(":write", ":read") for scope in self.app.scopes}
        else:
            _refuse_unless(bool(scopes) and scopes <= self.app.scopes, "invalid_scope")
            scopes |= self.face.always
        self._requests[query["state"]] = AuthorizationRequest(challenge, scopes)
        asked = (
            {**query} if self.face.app_level else {**query} | {self.face.scope_param: self.face.separator.join(scopes)}
        )
        return _answer(await self._http.get(request.url.path, params=asked))

    async def _pick(self, request: Request) -> Response:
        form = _form(await request.body())
        asked = self._requests.pop(form.get("state", ""), None)
        _refuse_unless(asked is not None, "no such request")
        _refuse_unless(form.get("redirect_uri") == self.app.redirect_uri, "another redirect address")
        answer = await self._pass(request)
        location = answer.headers.get("location", "")
        code = parse_qs(urlsplit(location).query).get("code", [""])[0]
        _refuse_unless(bool(code) and location.startswith(self.app.redirect_uri), "emulate gave no code")
        assert asked is not None
        self._codes[code] = asked
        return _answer(answer)

    def _authenticate(self, request: Request, form: Form) -> None:
        header = request.headers.get("authorization", "")
        if self.face.client_auth == "client_secret_basic":
            _refuse_unless("client_secret" not in form, "invalid_client", 401)
            given = _basic(header)
        else:
            _refuse_unless(not header, "invalid_client", 401)
            given = form.get("client_id", ""), form.get("client_secret", "")
        _refuse_unless(given == (self.app.client_id, self.app.client_secret), "invalid_client", 401)

    async def _token(self, request: Request) -> Response:
        _refuse_unless(request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"), "json")
        form = _form(await request.body())
        self._authenticate(request, form)
        if form.get("grant_type") == "refresh_token":
            return await self._renew(request, form)
        _refuse_unless(form.get("grant_type") == "authorization_code", "unsupported_grant_type")
        asked = self._codes.get(form.get("code", ""))
        if isinstance(asked, Authority):
            asked.is_live = False  # RFC 6749 §4.1.2: a code that is used twice ends what was issued for it
        _refuse_unless(isinstance(asked, AuthorizationRequest), "invalid_grant")
        assert isinstance(asked, AuthorizationRequest)
        _refuse_unless(form.get("redirect_uri") == self.app.redirect_uri, "invalid_grant")
        if asked.challenge is None:
            _refuse_unless("code_verifier" not in form, "invalid_grant")
        else:
            _refuse_unless(challenge_of(form.get("code_verifier", "")) == asked.challenge, "invalid_grant")
        authority = Authority(asked.scopes)
        self._codes[form["code"]] = authority
        return self._issue(await self._pass(request, body=self._with_client(form)), authority, authority.scopes)

    async def _renew(self, request: Request, form: Form) -> Response:
        authority = self._refresh.get(form.get("refresh_token", ""))
        _refuse_unless(authority is not None and authority.is_live, "invalid_grant")
        assert authority is not None
        asked = self._scopes(form.get("scope", ""))
        _refuse_unless(asked <= authority.scopes, "invalid_scope")
        self.books.refreshes += 1
        scopes = asked if asked and self.face.narrows else authority.scopes
        return self._issue(await self._pass(request, body=self._with_client(form)), authority, scopes)

    def _with_client(self, form: Form) -> bytes:
        """Some services of emulate read credentials only from the body."""
        said = form | {"client_id": self.app.client_id, "client_secret": self.app.client_secret}
        return str(httpx2.QueryParams(said)).encode()

    def _issue(self, answer: httpx2.Response, authority: Authority, scopes: frozenset[str]) -> Response:
        content: dict[str, Any] = answer.json()
        held = content.get(self.face.root, content) if self.face.root else content
        if "access_token" not in held:
            return _answer(answer)
        real = held["access_token"]
        ends_at = self.now + self.face.lifetime
        self._access[real] = IssuedToken(authority, scopes, ends_at, real)
        if "refresh_token" in held:
            self._refresh[held["refresh_token"]] = authority
        if self.face.narrows:
            held["scope"] = self.face.separator.join(sorted(scopes))
        return JSONResponse(content, status_code=answer.status_code)

    def _bearer(self, request: Request) -> IssuedToken:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        held = self._access.get(value) if scheme.lower() == "bearer" else None
        _refuse_unless(held is not None, "invalid_auth", 401)
        assert held is not None
        _refuse_unless(self.is_live(value), "token_expired", 401)
        return held

    async def _call(self, request: Request) -> Response:
        held = self._bearer(request)
        method, path = request.method, request.url.path
        self.books.calls.append((method, path, held.scopes))
        needed = self.face.needs(method, path)
        _refuse_unless(needed is not None, "no such call", 404)
        _refuse_unless(not needed or bool(needed & held.scopes), "missing_scope", 403)
        return _answer(await self._pass(request, token=held.real))

    async def _revoke(self, request: Request) -> Response:
        if self.face.errors == "ok_flag":  # Slack's auth.revoke; emulate has none
            self._access.pop(self._bearer(request).real)
            return JSONResponse({"ok": True, "revoked": True})
        value = _form(await request.body()).get("token", "")
        held = self._access.get(value)
        authority = self._refresh.get(value) or (None if held is None else held.authority)
        _refuse_unless(authority is not None and authority.is_live, "invalid_token")
        assert authority is not None
        authority.is_live = False
        return _answer(await self._pass(request))

    async def _end_grant(self, request: Request) -> Response:
        """GitHub's endpoint for the app: takes its credentials, and a token in the body; emulate has none."""
        _refuse_unless(request.method == "DELETE", "no such call", 404)
        given = _basic(request.headers.get("authorization", ""))
        _refuse_unless(given == (self.app.client_id, self.app.client_secret), "invalid_client", 401)
        held = self._access.get(json.loads(await request.body()).get("access_token", ""))
        _refuse_unless(held is not None and held.authority.is_live, "Not Found", 404)
        assert held is not None
        held.authority.is_live = False
        return Response(status_code=204)


def _refuse_unless(holds: bool, code: str, status: int = 400) -> None:
    if not holds:
        raise Refusal(code, status)


def _basic(header: str) -> tuple[str, str]:
    scheme, _, value = header.partition(" ")
    _refuse_unless(scheme.lower() == "basic", "invalid_client", 401)
    name, _, secret = base64.b64decode(value).decode().partition(":")
    return unquote(name), unquote(secret)


def _form(body: bytes) -> Form:
    """A form without repeated fields."""
    found = parse_qs(body.decode(), keep_blank_values=True)
    _refuse_unless(all(len(values) == 1 for values in found.values()), "a parameter twice")
    return {name: values[0] for name, values in found.items()}


def _answer(answer: httpx2.Response) -> Response:
    passed = {name: answer.headers[name] for name in ("content-type", "location", "link") if name in answer.headers}
    return Response(answer.content, answer.status_code, passed)
