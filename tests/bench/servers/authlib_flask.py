"""Authlib's authorization server on Flask with one confidential client, as gunicorn serves it with one worker.

`PYTHON -m tests.bench.servers.authlib_flask PORT SECRET`, with the Python of the environment of `make sdk-peers`. It
answers `client_credentials` with access tokens of RFC 9068, signed with ES256. Everything is in memory, the key is kept
parsed, secrets aren't hashed, and nothing is stored.
"""

from __future__ import annotations

import os
import sys

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, grants
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from flask import Flask, Response
from gunicorn.app.base import BaseApplication
from joserfc.jwk import ECKey

PORT, SECRET = int(sys.argv[1]), sys.argv[2]


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
        return grant_type == "client_credentials"


CLIENT = Client()
KEY = ECKey.generate_key("P-256")


class ClientCredentials(grants.ClientCredentialsGrant):
    """The grant, for clients that post their secret."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_post",)


class SignedTokens(JWTBearerTokenGenerator):
    """Tokens signed with the one key."""

    def get_jwks(self) -> ECKey:
        return KEY


def app() -> Flask:
    """The application with its token endpoint."""
    application = Flask("bench")
    server = AuthorizationServer(application, query_client=lambda _: CLIENT, save_token=lambda _token, _request: None)
    server.register_grant(ClientCredentials)
    server.register_token_generator("default", SignedTokens(f"http://127.0.0.1:{PORT}", alg="ES256"))

    @application.post("/token")
    def token() -> Response:
        return server.create_token_response()

    return application


class Server(BaseApplication):
    """gunicorn with one worker, whose threads keep connections open."""

    def load_config(self) -> None:
        options = {"bind": f"127.0.0.1:{PORT}", "worker_class": "gthread", "threads": 8, "keepalive": 600}
        for name, value in (options | {"loglevel": "warning", "timeout": 600}).items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return app()


if __name__ == "__main__":
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # plain HTTP on loopback
    Server().run()
