"""Stand-ins for services that only their vendors run, written from the documentation of their REST interfaces.

- Google Cloud KMS v1: cloud.google.com/kms/docs/reference/rest/v1/projects.locations.keyRings.cryptoKeys (encrypt,
  decrypt).
- Azure Key Vault 7.x: learn.microsoft.com/rest/api/keyvault/keys (get key, unwrap key, and the challenge), and the
  token endpoint of a managed identity (learn.microsoft.com/azure/app-service/overview-managed-identity).
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.network.tls import make_authority

Answer = tuple[int, Mapping[str, object], Mapping[str, str]]
Answerer = Callable[[BaseHTTPRequestHandler, Mapping[str, str]], Answer]


@contextmanager
def answering_server(answer: Answerer, *, tls: Path | None = None) -> Generator[int]:
    """Run a server on loopback, with a certificate for *.localhost in the folder `tls`; return its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, body, headers = answer(self, json.loads(content) if content else {})
            sent = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "content-type": "application/json"}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        authority = make_authority(tls, "localhost", "vault.localhost")
        server.socket = authority.server().wrap_socket(server.socket, server_side=True)
        (tls / "authority.path").write_text(str(authority.authority))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass
class GoogleStandIn:
    """Keys by their resource name; an unknown name is not found."""

    keys: dict[str, bytes] = field(default_factory=dict[str, bytes])

    def make(self, name: str) -> str:
        self.keys[name] = AESGCM.generate_key(256)
        return name

    def answer(self, request: BaseHTTPRequestHandler, body: Mapping[str, str]) -> Answer:
        name, _, operation = urlsplit(request.path).path.removeprefix("/v1/").rpartition(":")
        if name not in self.keys:
            return 404, {"error": {"code": 404, "status": "NOT_FOUND", "message": f"CryptoKey {name} not found."}}, {}
        cipher = AESGCM(self.keys[name])
        bound = base64.b64decode(body.get("additionalAuthenticatedData", ""))
        if operation == "encrypt":
            nonce = secrets.token_bytes(12)
            sealed = nonce + cipher.encrypt(nonce, base64.b64decode(body["plaintext"]), bound)
            version = f"{name}/cryptoKeyVersions/1"
            return 200, {"name": version, "ciphertext": base64.b64encode(sealed).decode()}, {}
        sealed = base64.b64decode(body["ciphertext"])
        try:
            plain = cipher.decrypt(sealed[:12], sealed[12:], bound)
        except InvalidTag:
            said = "Decryption failed: the ciphertext is invalid."
            return 400, {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": said}}, {}
        return 200, {"plaintext": base64.b64encode(plain).decode()}, {}


@dataclass
class AzureStandIn:
    """RSA keys by name and version; a caller without a token is told where to get one."""

    address: str = ""
    keys: dict[str, dict[str, rsa.RSAPrivateKey]] = field(default_factory=dict[str, dict[str, rsa.RSAPrivateKey]])
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def make(self, name: str) -> str:
        """Make a new version of a key."""
        self.keys.setdefault(name, {})[secrets.token_hex(16)] = rsa.generate_private_key(65537, 2048)
        return f"{self.address}/keys/{name}"

    def answer(self, request: BaseHTTPRequestHandler, body: Mapping[str, str]) -> Answer:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            resource = f"https://localhost:{urlsplit(self.address).port}"
            challenge = f'Bearer authorization="https://login.windows.net/common", resource="{resource}"'
            return 401, {}, {"WWW-Authenticate": challenge}
        parts = urlsplit(request.path).path.strip("/").split("/")
        versions = self.keys.get(parts[1], {})
        version = parts[2] if len(parts) > 2 else next(reversed(versions), "")
        key = versions.get(version)
        if key is None:
            return 404, {"error": {"code": "KeyNotFound", "message": "A key with this name wasn't found."}}, {}
        kid = f"{self.address}/keys/{parts[1]}/{version}"
        if len(parts) < 4:
            numbers = key.public_key().public_numbers()
            shown = {"kid": kid, "kty": "RSA", "key_ops": ["wrapKey", "unwrapKey"]}
            shown |= {name: _number(value) for name, value in (("n", numbers.n), ("e", numbers.e))}
            return 200, {"key": shown, "attributes": {"enabled": True}}, {}
        try:
            plain = key.decrypt(
                base64.urlsafe_b64decode(body["value"] + "=="),
                padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None),
            )
        except ValueError:
            return 400, {"error": {"code": "BadParameter", "message": "The parameter is incorrect."}}, {}
        return 200, {"kid": kid, "value": base64.urlsafe_b64encode(plain).decode().rstrip("=")}, {}

    def identity(self, request: BaseHTTPRequestHandler, body: Mapping[str, str]) -> Answer:
        """The token endpoint of a managed identity."""
        return 200, {"access_token": self.token, "expires_on": "4102444800", "token_type": "Bearer"}, {}


def _number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).decode().rstrip("=")
