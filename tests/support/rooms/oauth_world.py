"""One running vault with a signed-in person, shared by the protocol tests of the authorization server; HTTP only."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import socket
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from joserfc.jwk import ECKey, RSAKey

from tests.support.harness import RunningVault, running_vault
from tests.support.person import Person

REDIRECT = "http://127.0.0.1:33418/callback"
WEB = "https://client.example/callback"  # where an answer reaches the client and no other program on the machine
SCOPE = "tools connections openid"
GENEROUS = {"registration": {"per_address_hourly": 100_000, "total_hourly": 100_000}}


def pkce() -> tuple[str, str]:
    """A verifier and its challenge."""
    verifier = secrets.token_urlsafe(48)
    return verifier, base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def query_of(url: str) -> dict[str, str]:
    """The query of a redirect; a repeated parameter fails."""
    found = parse_qs(urlsplit(url).query, keep_blank_values=True)
    assert all(len(values) == 1 for values in found.values())
    return {name: values[0] for name, values in found.items()}


def claims_of(token: str) -> dict[str, object]:
    segment = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))


def header_of(token: str) -> dict[str, object]:
    segment = token.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))


def b64(data: bytes | str | Mapping[str, object]) -> str:
    if isinstance(data, Mapping):
        data = json.dumps(data)
    raw = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign_jwt(header: Mapping[str, object], claims: Mapping[str, object], key: RSAKey | ECKey) -> str:
    """A JWT with any header, correctly signed with its `alg` (ES256 or RS256 if that is a different one)."""
    signing_input = f"{b64(header)}.{b64(claims)}"
    name = str(header.get("alg"))
    digest = {"384": hashes.SHA384(), "512": hashes.SHA512()}.get(name[2:], hashes.SHA256())
    if isinstance(key, ECKey):
        private = key.private_key
        assert private is not None
        r, s = decode_dss_signature(private.sign(signing_input.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signing_input}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"
    rsa_private = key.private_key
    assert rsa_private is not None
    scheme = padding.PSS(padding.MGF1(digest), digest.digest_size) if name.startswith("PS") else padding.PKCS1v15()
    return f"{signing_input}.{b64(rsa_private.sign(signing_input.encode(), scheme, digest))}"


def listening_socket() -> socket.socket:
    """A free loopback port. The protocol is named: otherwise asyncio leaves Nagle's delay on, 40 ms per answer."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    return listening


@asynccontextmanager
async def vault_with(data: Path, **sections: object) -> AsyncGenerator[tuple[RunningVault, httpx2.AsyncClient]]:
    """A separate vault for one test, with settings."""
    async with (
        running_vault(data, overrides=sections, listening=listening_socket()) as vault,
        httpx2.AsyncClient(base_url=vault.url, timeout=20) as http,
    ):
        yield vault, http


@dataclass
class Code:
    """An authorization code on its way to the token endpoint."""

    client_id: str
    code: str
    verifier: str
    redirect_uri: str = REDIRECT

    def form(self, **changes: str | None) -> dict[str, str]:
        """The honest token request with changes; None omits a parameter."""
        form: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "client_id": self.client_id,
            "code": self.code,
            "code_verifier": self.verifier,
            "redirect_uri": self.redirect_uri,
        }
        return {name: value for name, value in (form | changes).items() if value is not None}


@dataclass
class World:
    """The vault, a browser in which alice is signed in, and a plain HTTP client."""

    vault: RunningVault
    alice: Person
    http: httpx2.AsyncClient

    @property
    def url(self) -> str:
        return self.vault.url

    def now(self) -> int:
        return self.vault.deployment.now()

    @contextmanager
    def clock_ahead(self, seconds: int) -> Generator[None]:
        """Run the block `seconds` later."""
        database = self.vault.deployment.database
        database.clock_offset += seconds
        try:
            yield
        finally:
            database.clock_offset -= seconds

    async def register(self, **metadata: object) -> dict[str, object]:
        return await self.vault.register(**metadata)

    async def public_client(self, **metadata: object) -> str:
        return str((await self.register(**metadata))["client_id"])

    def authorize_url(self, client_id: str, challenge: str, **changes: str | None) -> str:
        """The honest authorization request with changes; None omits a parameter."""
        query: dict[str, str | None] = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": REDIRECT,
            "scope": SCOPE,
            "state": secrets.token_urlsafe(8),
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "resource": f"{self.url}/mcp",
        }
        return "/authorize?" + urlencode(
            {name: value for name, value in (query | changes).items() if value is not None}
        )

    async def ask(self, client_id: str, challenge: str = "A" * 43, **changes: str | None) -> httpx2.Response:
        """The authorization request in alice's browser, not followed."""
        return await self.alice.http.get(self.authorize_url(client_id, challenge, **changes))

    async def allow_request(self, client_id: str, challenge: str, **changes: str | None) -> dict[str, str]:
        """Alice allows the request; the parameters that reach the client."""
        page = await self.alice.open(self.authorize_url(client_id, challenge, **changes))
        if page.status_code == 200:
            page = await self.alice.submit(page, form="/consent", button=("decision", "allow"))
        assert page.status_code == 303, f"{page.status_code}: {page.text[:300]}"
        return query_of(page.headers["location"])

    async def code(self, client_id: str | None = None, **changes: str | None) -> Code:
        client_id = client_id or await self.public_client()
        verifier, challenge = pkce()
        answer = await self.allow_request(client_id, challenge, **changes)
        return Code(client_id, answer["code"], verifier, changes.get("redirect_uri") or REDIRECT)

    async def token(self, form: Mapping[str, str], **options: object) -> httpx2.Response:
        return await self.http.post("/token", data=dict(form), **options)  # pyright: ignore[reportArgumentType]

    async def tokens(self, client_id: str | None = None, **changes: str | None) -> dict[str, str]:
        """Everything that the token endpoint gives an honest client, and the client's ID."""
        code = await self.code(client_id, **changes)
        answer = await self.token(code.form())
        assert answer.status_code == 200, answer.text
        return answer.json() | {"client_id": code.client_id}

    async def refresh(self, client_id: str, refresh_token: str, **more: str) -> httpx2.Response:
        form = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": refresh_token} | more
        return await self.token(form)

    async def probe(self, access_token: str, scheme: str = "Bearer") -> int:
        """The status with which an endpoint that needs a token receives this one."""
        answer = await self.http.get("/userinfo", headers={"Authorization": f"{scheme} {access_token}"})
        return answer.status_code


def error_of(answer: httpx2.Response) -> str:
    """The error code of a JSON refusal; also checks its form."""
    assert answer.headers["content-type"].startswith("application/json"), answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "Traceback" not in answer.text
    return str(answer.json()["error"])
