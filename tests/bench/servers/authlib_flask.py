"""Authlib's authorization server on Flask with one confidential client and one refresh token, which is printed.

`PYTHON -m tests.bench.servers.authlib_flask PORT SECRET`, with the Python of the environment of `make sdk-peers`.
Everything is in memory, secrets aren't hashed, and refresh tokens aren't rotated: the least work for a refresh.
"""

from __future__ import annotations

import os
import sys
import time

import uvicorn
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from flask import Flask, Response

PORT, SECRET = int(sys.argv[1]), sys.argv[2]
REFRESH = "refresh-bench"
issued: dict[str, dict[str, object]] = {}


class Client(ClientMixin):
    """The one client."""

    client_id = "bench"

    def get_client_id(self) -> str:
        return self.client_id

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "client_secret_post"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "refresh_token"


class Token(TokenMixin):
    """What the refresh token stands for."""

    def check_client(self, client: ClientMixin) -> bool:
        return client is CLIENT

    def get_scope(self) -> str:
        return "read"

    def get_expires_in(self) -> int:
        return 3600

    def is_expired(self) -> bool:
        return False

    def is_revoked(self) -> bool:
        return False


CLIENT, TOKEN = Client(), Token()


class Refresh(grants.RefreshTokenGrant):
    """The grant, without rotation."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_post",)

    def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
        return TOKEN if refresh_token == REFRESH else None

    def authenticate_user(self, refresh_token: Token) -> str:
        return "person"

    def revoke_old_credential(self, refresh_token: Token) -> None:
        issued.clear()  # so that memory doesn't grow; no rotation


def save_token(token: dict[str, object], request: object) -> None:
    """Keep the issued token."""
    issued[str(token["access_token"])] = token | {"issued_at": int(time.time())}


def app() -> Flask:
    """The application with its token endpoint."""
    application = Flask("bench")
    server = AuthorizationServer(application, query_client=lambda _: CLIENT, save_token=save_token)
    server.register_grant(Refresh)

    @application.post("/token")
    def token() -> Response:
        return server.create_token_response()

    return application


if __name__ == "__main__":
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # plain HTTP on loopback
    print(REFRESH, flush=True)
    uvicorn.run(
        app(),
        host="127.0.0.1",
        port=PORT,
        interface="wsgi",
        http="httptools",
        loop="uvloop",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=600,
    )
