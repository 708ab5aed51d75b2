"""Authlib's authorization server as a company's identity provider, with identity assertions (ID-JAG) as a grant.

Sign-in, codes, rotation, and ID tokens are Authlib's. PyJWT signs the assertions by
draft-ietf-oauth-identity-assertion-authz-grant-04 §4.3, also for a refresh token, and bound to a DPoP key (§9.8.1.1).
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from authlib.oauth2.rfc6749 import (
    AuthorizationCodeMixin,
    AuthorizationServer,
    ClientMixin,
    OAuth2Request,
    TokenMixin,
    grants,
)
from authlib.oauth2.rfc6749.errors import AccessDeniedError, InvalidRequestError
from authlib.oauth2.rfc6749.grants import BaseGrant, TokenEndpointMixin
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import UserInfo
from authlib.oidc.core.grants import OpenIDCode
from joserfc.jwk import RSAKey, import_key
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.harness import free_socket, serve_app

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
REFRESH_TOKEN = "urn:ietf:params:oauth:token-type:refresh_token"
_METHODS = ["client_secret_basic", "client_secret_post"]


@dataclass
class RegisteredClient(ClientMixin):
    """A client of the company. `elsewhere`: its ID at each service, by that service's issuer."""

    client_id: str
    secret: str
    elsewhere: dict[str, str] = field(default_factory=dict[str, str])

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> None:
        return None

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri.startswith(("http://localhost:", "http://127.0.0.1:"))

    def check_client_secret(self, client_secret: str) -> bool:
        return secrets.compare_digest(self.secret, client_secret)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in _METHODS

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return True


@dataclass
class SignInCode(AuthorizationCodeMixin):
    """What Authlib stores about a code."""

    client_id: str
    user: str
    asked: Mapping[str, str]

    @property
    def code_challenge(self) -> str | None:
        return self.asked.get("code_challenge")

    @property
    def code_challenge_method(self) -> str | None:
        return self.asked.get("code_challenge_method")

    def get_redirect_uri(self) -> str | None:
        return self.asked.get("redirect_uri")

    def get_scope(self) -> str:
        return self.asked.get("scope", "")

    def get_nonce(self) -> str | None:
        return self.asked.get("nonce")

    def get_auth_time(self) -> int:
        return int(time.time())

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


@dataclass
class KeptToken(TokenMixin):
    """What Authlib stores about a refresh token."""

    client_id: str
    user: str
    scope: str
    is_used: bool = False

    def check_client(self, client: RegisteredClient) -> bool:
        return client.client_id == self.client_id

    def get_scope(self) -> str:
        return self.scope


class Company(AuthorizationServer):
    """The identity provider. Everyone who visits /authorize is `person`; `denied` people get no assertion."""

    def __init__(self, issuer: str) -> None:
        super().__init__()
        self.issuer, self.person, self.groups = issuer, "employee-1", ["staff"]
        self.key = RSAKey.generate_key(2048, {"kid": "authlib-1"}, auto_kid=True)
        self.registered: dict[str, RegisteredClient] = {}
        self.codes: dict[str, SignInCode] = {}
        self.tokens: dict[str, KeptToken] = {}
        self.denied: set[str] = set()
        self.renews_id_tokens = True
        self.takes_refresh_tokens = False
        self.exchanged: list[str] = []  # the type of each subject token that led to an assertion
        generator = BearerTokenGenerator(lambda **_: secrets.token_urlsafe(24), lambda **_: secrets.token_urlsafe(24))
        self.register_token_generator("default", generator)
        self.register_grant(CodeGrant, [CodeChallenge(required=True), SignIn(self)])
        self.register_grant(Renewal, [SignIn(self)])
        self.register_grant(AssertionGrant)

    def register(self, client_id: str, **elsewhere: str) -> RegisteredClient:
        made = self.registered[client_id] = RegisteredClient(client_id, secrets.token_urlsafe(24), dict(elsewhere))
        return made

    def query_client(self, client_id: str) -> RegisteredClient | None:
        return self.registered.get(client_id)

    def save_token(self, token: Mapping[str, Any], request: OAuth2Request) -> None:
        if "refresh_token" in token:
            self.tokens[token["refresh_token"]] = KeptToken(request.client.client_id, request.user, token["scope"])

    def create_oauth2_request(self, request: OAuth2Request) -> OAuth2Request:
        return request

    def handle_response(self, status: int, body: object, headers: list[tuple[str, str]]) -> Response:
        content = json.dumps(body) if isinstance(body, dict) else str(body)
        return Response(content, status, dict(headers))

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """No one listens."""

    def metadata(self) -> dict[str, object]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "offline_access"],
            "grant_types_supported": ["authorization_code", "refresh_token", EXCHANGE],
            "identity_chaining_requested_token_types_supported": [ID_JAG],
        }


class SentRequest(OAuth2Request):
    """A request as Authlib reads it. Authlib requires the scheme https, so it is set."""

    def __init__(self, request: Request, values: Mapping[str, str]) -> None:
        headers = {name.title(): value for name, value in request.headers.items()}
        super().__init__(request.method, f"https://company.example{request.url.path}", headers=headers)
        self.payload, self.values = BasicOAuth2Payload(dict(values)), dict(values)

    @property
    def args(self) -> dict[str, str]:
        return self.values

    @property
    def form(self) -> dict[str, str]:
        return self.values


class SignIn(OpenIDCode):
    """ID tokens (OpenID Connect Core §2)."""

    def __init__(self, company: Company) -> None:
        super().__init__()
        self.company = company

    def exists_nonce(self, nonce: str, request: OAuth2Request) -> bool:
        return False

    def resolve_client_private_key(self, client: RegisteredClient) -> RSAKey:
        return self.company.key

    def get_client_algorithm(self, client: RegisteredClient) -> str:
        return "RS256"

    def get_encode_header(self, client: RegisteredClient) -> dict[str, str]:
        return {"alg": "RS256", "kid": str(self.company.key.kid)}

    def get_client_claims(self, client: RegisteredClient) -> dict[str, object]:
        return {"iss": self.company.issuer, "aud": client.client_id}

    def generate_user_info(self, user: str, scope: str) -> UserInfo:
        return UserInfo(sub=user, preferred_username=user)

    def process_token(self, grant: BaseGrant, response: tuple[int, dict[str, Any], object]) -> dict[str, Any]:
        is_renewal = grant.GRANT_TYPE == "refresh_token"
        return (
            response[1] if is_renewal and not self.company.renews_id_tokens else super().process_token(grant, response)
        )


class CodeGrant(grants.AuthorizationCodeGrant):
    """RFC 6749 §4.1."""

    TOKEN_ENDPOINT_AUTH_METHODS = _METHODS

    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        self.server.codes[code] = SignInCode(request.client.client_id, request.user, request.payload.data)

    def query_authorization_code(self, code: str, client: RegisteredClient) -> SignInCode | None:
        found = self.server.codes.get(code)
        return found if found is not None and found.client_id == client.client_id else None

    def delete_authorization_code(self, authorization_code: SignInCode) -> None:
        self.server.codes = {name: one for name, one in self.server.codes.items() if one is not authorization_code}

    def authenticate_user(self, authorization_code: SignInCode) -> str:
        return authorization_code.user


class Renewal(grants.RefreshTokenGrant):
    """RFC 6749 §6; each refresh token works once."""

    TOKEN_ENDPOINT_AUTH_METHODS = _METHODS
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token: str) -> KeptToken | None:
        found = self.server.tokens.get(refresh_token)
        return None if found is None or found.is_used else found

    def authenticate_user(self, refresh_token: KeptToken) -> str:
        return refresh_token.user

    def revoke_old_credential(self, refresh_token: KeptToken) -> None:
        refresh_token.is_used = True


class AssertionGrant(BaseGrant, TokenEndpointMixin):
    """An identity assertion for an ID token or, if the company accepts it, a refresh token (RFC 8693, ID-JAG)."""

    GRANT_TYPE = EXCHANGE
    TOKEN_ENDPOINT_AUTH_METHODS = _METHODS

    def validate_token_request(self) -> None:
        self.request.client = self.authenticate_token_endpoint_client()
        sent, company = self.request.form, self.server
        if sent.get("requested_token_type") != ID_JAG or "audience" not in sent:
            raise InvalidRequestError("only identity assertions are issued here")
        kind, token = sent.get("subject_token_type"), sent.get("subject_token", "")
        if kind == ID_TOKEN:
            self.request.user = self._person_of(token)
        elif kind == REFRESH_TOKEN and company.takes_refresh_tokens:
            known = company.tokens.get(token)
            if known is None or known.is_used or not known.check_client(self.request.client):
                raise InvalidRequestError("the refresh token is no good")
            self.request.user = known.user
        else:
            raise InvalidRequestError("this subject_token_type isn't supported")
        if self.request.user in company.denied:
            raise AccessDeniedError

    def _person_of(self, token: str) -> str:
        try:
            claims = jwt.decode(
                token,
                self.server.key.public_key,
                algorithms=["RS256"],
                audience=self.request.client.client_id,
                issuer=self.server.issuer,
                options={"verify_iat": False},
            )
        except jwt.PyJWTError as error:
            raise InvalidRequestError(f"the subject token is no good: {error}") from error
        return str(claims["sub"])

    def create_token_response(self) -> tuple[int, dict[str, object], list[tuple[str, str]]]:
        company, sent, client, now = self.server, self.request.form, self.request.client, int(time.time())
        company.exchanged.append(sent["subject_token_type"].rpartition(":")[2])
        claims: dict[str, object] = {
            "iss": company.issuer,
            "sub": self.request.user,
            "aud": sent["audience"],
            "client_id": client.elsewhere.get(sent["audience"], client.client_id),
            "jti": secrets.token_urlsafe(12),
            "iat": now,
            "exp": now + 300,
            "auth_time": now,
            "groups": company.groups,
            "preferred_username": self.request.user,
        }
        claims |= {name: sent[name] for name in ("scope", "resource") if name in sent}
        if proof := self.request.headers.get("Dpop"):
            claims["cnf"] = {"jkt": import_key(jwt.get_unverified_header(proof)["jwk"]).thumbprint()}
        header = {"typ": "oauth-id-jag+jwt", "kid": company.key.kid}
        made = jwt.encode(claims, company.key.private_key, algorithm="RS256", headers=header)
        body: dict[str, object] = {"issued_token_type": ID_JAG, "access_token": made, "token_type": "N_A"}
        return 200, body | {"scope": sent.get("scope", ""), "expires_in": 300}, self.TOKEN_RESPONSE_HEADER


@asynccontextmanager
async def running_authlib() -> AsyncGenerator[Company]:
    """The company on a free loopback port until the block ends."""
    listening = free_socket()
    company = Company(f"http://127.0.0.1:{listening.getsockname()[1]}")

    async def authorize(request: Request) -> Response:
        asked = SentRequest(request, dict(request.query_params))
        grant = company.get_consent_grant(asked, end_user=company.person)
        return company.create_authorization_response(asked, grant_user=company.person, grant=grant)

    async def token(request: Request) -> Response:
        return company.create_token_response(
            SentRequest(request, {name: str(v) for name, v in (await request.form()).items()})
        )

    async def metadata(request: Request) -> Response:
        return JSONResponse(company.metadata())

    async def keys(request: Request) -> Response:
        return JSONResponse({"keys": [dict(company.key.as_dict(private=False))]})

    routes = [
        Route("/.well-known/openid-configuration", metadata),
        Route("/jwks", keys),
        Route("/authorize", authorize),
        Route("/token", token, methods=["POST"]),
    ]
    async with serve_app(Starlette(routes=routes), listening):
        yield company
