"""An OpenID Connect provider on loopback that can be told to lie, one claim or document at a time."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import warnings
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, urlencode

from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.support.harness import free_socket, serve_app

CLIENT_ID = "vault-at-op"
CLIENT_SECRET = "secret of the vault: at the+op"
Claims = dict[str, object]
# How its documents can answer while it is broken: `broken` names one.
OUTAGES = {
    "unavailable": PlainTextResponse("try later", 503),
    "not found": PlainTextResponse("no such route", 404),
    "a page": PlainTextResponse("<h1>We are back soon</h1>", media_type="text/html"),
    "a redirect": RedirectResponse("https://status.example/", 302),
}


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass
class OpenIDDouble:
    """Signs `subject` in at once. The hooks change its answers."""

    url: str
    now: Callable[[], int]
    subject: str = "subject-1"
    person: Claims = field(default_factory=lambda: {"preferred_username": "carol", "email": "carol@example.com"})
    key: RSAKey | ECKey | OKPKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "op-1"}))
    change_claims: Callable[[Claims], Claims] = lambda claims: claims
    change_metadata: Callable[[Claims], Claims] = lambda metadata: metadata
    change_keys: Callable[[list[Claims]], list[Claims]] = lambda keys: keys
    change_callback: Callable[[dict[str, str]], dict[str, str]] = lambda query: query
    sign: Callable[[Claims], str] | None = None
    algorithm: str = "RS256"
    sends_issuer: bool = True
    credentials: str = f"{CLIENT_ID}:{quote(CLIENT_SECRET, safe='')}"
    used_header: bool = False
    broken: str = ""
    is_oauth_only: bool = False  # publishes its metadata where RFC 8414 says, not where OpenID Connect does
    requests: list[dict[str, str]] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def reset(self) -> None:
        """Make it honest again."""
        fresh = OpenIDDouble(self.url, self.now, key=self.key)
        for name in (
            "subject",
            "person",
            "change_claims",
            "change_metadata",
            "change_keys",
            "change_callback",
            "sign",
            "algorithm",
            "credentials",
            "broken",
        ):
            setattr(self, name, getattr(fresh, name))
        self.sends_issuer, self.is_oauth_only = True, False
        self.requests.clear()
        self.fetched.clear()

    def metadata(self) -> Claims:
        return self.change_metadata(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/jwks",
                "authorization_response_iss_parameter_supported": True,
                "id_token_signing_alg_values_supported": ["RS256", "none", "HS256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            }
        )

    def sign_claims(self, claims: Claims) -> str:
        """Sign the claims with the provider's key."""
        header = {"alg": self.algorithm} | ({} if self.key.kid is None else {"kid": self.key.kid})
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", SecurityWarning
            )  # `EdDSA` has a newer name; providers still use the old one
            return jwt.encode(header, dict(claims), self.key, algorithms=[self.algorithm])

    def signed_with_hmac_of_the_public_key(self, claims: Claims) -> str:
        """Written by hand, because libraries refuse to make one."""
        head = {"alg": "HS256", "kid": self.key.kid}
        content = ".".join(_b64(json.dumps(part).encode()) for part in (head, claims))
        return f"{content}.{_b64(hmac.digest(self.key.as_pem(private=False), content.encode(), 'sha256'))}"

    def unsigned_token(self, claims: Claims, *, algorithm: str = "none") -> str:
        """RFC 7519 §6."""
        parts = (json.dumps(part).encode() for part in ({"alg": algorithm, "typ": "JWT"}, claims))
        return ".".join(map(_b64, parts)) + "."

    async def _configuration(self, request: Request) -> Response:
        self.fetched.append(request.url.path)
        if self.broken in OUTAGES:
            return OUTAGES[self.broken]
        if self.is_oauth_only and request.url.path.endswith("openid-configuration"):
            return PlainTextResponse("not here", 404)
        return JSONResponse(self.metadata())

    async def _jwks(self, request: Request) -> Response:
        self.fetched.append(request.url.path)
        if self.broken in OUTAGES:
            return OUTAGES[self.broken]
        if self.broken == "keys":
            return JSONResponse({"keys": "none"})
        return JSONResponse({"keys": self.change_keys([dict(self.key.as_dict(private=False))])})

    async def _authorize(self, request: Request) -> Response:
        query = {name: values[0] for name, values in parse_qs(request.url.query).items()}
        self.requests.append(query)
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        answer = {"code": code, "state": query["state"]} | ({"iss": self.url} if self.sends_issuer else {})
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode(self.change_callback(answer))}", 303)

    async def _token(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        asked = self.codes.pop(form.get("code", ""), None)
        sent = request.headers.get("authorization")
        pair = (
            base64.b64decode(sent.partition(" ")[2]).decode()
            if sent
            else f"{form.get('client_id')}:{quote(form.get('client_secret', ''), safe='')}"
        )
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if asked is None or pair != self.credentials or challenge.rstrip(b"=").decode() != asked["code_challenge"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        claims: Claims = {
            "iss": self.url,
            "sub": self.subject,
            "aud": CLIENT_ID,
            "iat": self.now(),
            "exp": self.now() + 300,
            "nonce": asked["nonce"],
            **self.person,
        }
        claims = {name: value for name, value in self.change_claims(claims).items() if value is not None}
        self.used_header = sent is not None
        if self.broken == "token":
            return PlainTextResponse("<html>")
        token = (self.sign or self.sign_claims)(claims)
        return JSONResponse({"access_token": "unused", "token_type": "Bearer", "id_token": token})

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._configuration),
                Route("/tenant/.well-known/openid-configuration", self._configuration),
                Route("/.well-known/oauth-authorization-server/tenant", self._configuration),
                Route("/jwks", self._jwks),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
            ]
        )

    def settings(self, *, create_users: bool = True, secret: str | None = CLIENT_SECRET) -> dict[str, object]:
        """For `[sign_in.openid.NAME]`."""
        return {
            "issuer": self.url,
            "client_id": CLIENT_ID,
            "client_secret": secret,
            "title": "Company sign-in",
            "create_users": create_users,
        }


@asynccontextmanager
async def running_openid(now: Callable[[], int]) -> AsyncGenerator[OpenIDDouble]:
    """The provider on a free loopback port until the block ends."""
    listening = free_socket()
    double = OpenIDDouble(f"http://127.0.0.1:{listening.getsockname()[1]}", now)
    async with serve_app(double.app(), listening):
        yield double
