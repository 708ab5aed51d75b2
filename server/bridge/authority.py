"""The client of a remote vault's authorization server (RFC 6749, 7009, 7591, 7592, 7636, 8414, 8628).

The vault is its own authorization server: the issuer and all endpoints must have the origin that the person entered, so
that no document can send a code or a token elsewhere.
"""

from __future__ import annotations

import asyncio
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final

import httpx2

from providers.definitions.issuers import is_same_issuer
from server.bridge.address import RemoteVault
from server.bridge.credentials import Credentials
from server.bridge.refusals import BridgeRefused, GrantOver, RemoteUnreachable
from server.http.strict_json import json_object
from server.oauth.clients.rules import DEVICE_GRANT
from server.oauth.rules import EXCHANGE_SCOPE, TOKEN_EXCHANGE
from server.runtime.version import VERSION
from vault.records import format_scope

HEADERS: Final = {"user-agent": f"token-vault-bridge/{VERSION}"}
_SCOPES: Final = frozenset({"connections", "offline_access", "tools"})
REDIRECT_URI: Final = "http://127.0.0.1/callback"  # any port is accepted (RFC 8252 §7.3)
_TIMEOUT: Final = 15.0  # seconds
_PATIENCE: Final = 60.0  # seconds for a whole answer that arrives slowly
_URL_LIMIT: Final = 2000  # characters
_ANSWER_LIMIT: Final = 1_000_000  # bytes
_URI: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_VISIBLE: Final = re.compile(r"[!-~]+")
_SLOWER: Final = 5  # seconds, after slow_down (RFC 8628 §3.5)


def scope_of(vault: RemoteVault) -> str:
    """The scopes to request: programs need handles, which require the exchange."""
    return format_scope(_SCOPES | {EXCHANGE_SCOPE} if vault.is_for_programs else _SCOPES)


def plain_client(vault: RemoteVault) -> httpx2.AsyncClient:
    """An HTTP client without a token. Environment proxies apply, except for this machine itself."""
    return httpx2.AsyncClient(trust_env=not vault.is_loopback, headers=HEADERS)


@dataclass(frozen=True, slots=True)
class VaultEndpoints:
    """The endpoints of the remote authorization server; None for one that it doesn't support."""

    authorize: str
    token: str
    register: str | None
    device: str | None
    revoke: str | None


@dataclass(frozen=True, slots=True)
class DevicePrompt:
    """What to show the person, and what to poll with."""

    verification_uri: str
    user_code: str
    lifetime: int
    interval: int
    device_code: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    content: Mapping[str, object] = field(repr=False)

    def text(self, name: str) -> str:
        value = self.content.get(name)
        return value if isinstance(value, str) else ""

    def word(self, name: str) -> str:
        """The value if it consists of visible ASCII characters, as codes, IDs, and tokens do (RFC 6749 appendix A);
        else empty."""
        value = self.text(name)
        return value if _VISIBLE.fullmatch(value) else ""

    def seconds(self, name: str, default: int) -> int:
        value = self.content.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**6 else default

    @property
    def error(self) -> str:
        """The OAuth error code, cut to a displayable length."""
        return "".join(c for c in self.text("error")[:60] if c.isascii() and (c.isalnum() or c == "_"))


class AuthorizationServer:
    """Requests to the remote authorization server, with a client that sends no token."""

    def __init__(self, http: httpx2.AsyncClient, vault: RemoteVault) -> None:
        self._http = http
        self._vault = vault
        self._endpoints: VaultEndpoints | None = None

    async def endpoints(self) -> VaultEndpoints:
        """The endpoints in its metadata document (RFC 8414 §3), which is read once."""
        if self._endpoints is None:
            answer = await self._ask("GET", f"{self._vault.origin}/.well-known/oauth-authorization-server")
            self._endpoints = self._read(answer)
        return self._endpoints

    def _read(self, answer: _Answer) -> VaultEndpoints:
        issuer = answer.text("issuer")
        if answer.status != HTTPStatus.OK or not issuer:
            raise BridgeRefused(f"no vault answers at {self._vault.origin}: correct --url")
        if not is_same_issuer(issuer, self._vault.origin):
            raise BridgeRefused(
                f"the vault at {self._vault.origin} has a different public address: set --url to that address"
            )
        found = {name: self._own(answer.text(f"{name}_endpoint")) for name in _ENDPOINTS}
        authorize, token = found["authorization"], found["token"]
        if authorize is None or token is None or answer.content.get("code_challenge_methods_supported") != ["S256"]:
            raise BridgeRefused(f"the metadata of {self._vault.origin} isn't a vault's: check --url")
        return VaultEndpoints(
            authorize, token, found["registration"], found["device_authorization"], found["revocation"]
        )

    def _own(self, url: str) -> str | None:
        """The endpoint if it is below the vault's own origin and consists of URI characters (RFC 3986 §2).

        Other characters could end the header or the terminal line that contains it.
        """
        is_own = url.startswith(f"{self._vault.origin}/") and _URI.fullmatch(url) is not None and "@" not in url
        is_own = is_own and len(url) <= _URL_LIMIT
        return url if is_own else None

    async def register(self) -> Credentials:
        """Register a public client with the name of this agent and machine (RFC 7591)."""
        endpoint = (await self.endpoints()).register
        asked: dict[str, object] = {
            "client_name": " on ".join(filter(None, (self._vault.agent, platform.node()))),
            "redirect_uris": [REDIRECT_URI],
            "grant_types": [
                "authorization_code",
                "refresh_token",
                DEVICE_GRANT,
                *([TOKEN_EXCHANGE] if self._vault.is_for_programs else []),
            ],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
            "application_type": "native",
            "scope": scope_of(self._vault),
        }
        answer = None if endpoint is None else await self._ask("POST", endpoint, content=asked)
        if answer is not None and answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise BridgeRefused(
                "the vault accepts no more registrations from this machine right now: try again in an hour"
            )
        if answer is None or answer.status != HTTPStatus.CREATED or not answer.word("client_id"):
            option = " --exchange" if self._vault.is_for_programs else ""
            raise BridgeRefused(
                f"{self._vault.origin} doesn't accept self-registered agents. Ask an admin to run "
                f"`token-vault clients add NAME --redirect-uri {REDIRECT_URI}{option}`, and pass the ID with "
                "--client-id"
            )
        url = self._own(answer.text("registration_client_uri"))
        return Credentials(answer.word("client_id"), url or "", answer.word("registration_access_token") if url else "")

    async def is_registered(self, credentials: Credentials) -> bool:
        """Whether the vault still knows a client that registered itself (RFC 7592 §2.1); True if it can't be
        determined."""
        if not credentials.registration_url:
            return True
        answer = await self._ask("GET", credentials.registration_url, bearer=credentials.registration_token)
        return answer.status != HTTPStatus.UNAUTHORIZED

    async def redeem(self, client_id: str, code: str, *, verifier: str, redirect_uri: str) -> Credentials:
        """Tokens for an authorization code (OAuth 2.1 §4.1.3)."""
        form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier}
        return await self._tokens(Credentials(client_id), form | {"redirect_uri": redirect_uri})

    async def refresh(self, credentials: Credentials) -> Credentials:
        """Refresh the tokens. Raises GrantOver if the vault no longer accepts the refresh token."""
        form = {"grant_type": "refresh_token", "refresh_token": credentials.refresh_token}
        return await self._tokens(credentials, form)

    async def ask_device(self, client_id: str) -> DevicePrompt:
        """Request a device code and a user code (RFC 8628 §3.1)."""
        endpoint = (await self.endpoints()).device
        if endpoint is None:
            raise BridgeRefused(f"{self._vault.origin} doesn't support sign-in with a code: omit --device")
        answer = await self._ask(
            "POST",
            endpoint,
            form={"client_id": client_id, "scope": scope_of(self._vault), "resource": self._vault.resource},
        )
        page, user_code = self._own(answer.text("verification_uri")), answer.word("user_code")[:20]
        if answer.status != HTTPStatus.OK or page is None or not user_code or not answer.word("device_code"):
            raise self._refusal(answer)
        return DevicePrompt(
            page,
            user_code,
            lifetime=answer.seconds("expires_in", 600),
            interval=answer.seconds("interval", 5),
            device_code=answer.word("device_code"),
        )

    async def poll_device(self, client_id: str, prompt: DevicePrompt) -> Credentials:
        """Poll until the person has approved, and return the tokens (§3.4, §3.5)."""
        interval = prompt.interval
        form = {"grant_type": DEVICE_GRANT, "device_code": prompt.device_code}
        while True:
            await asyncio.sleep(interval)
            try:
                return await self._tokens(Credentials(client_id), form)
            except GrantOver as refusal:
                if refusal.error == "slow_down":
                    interval += _SLOWER
                elif refusal.error != "authorization_pending":
                    raise
            except RemoteUnreachable:
                interval = min(2 * interval, 60)  # §3.5: back off and continue

    async def revoke(self, credentials: Credentials) -> None:
        """End the grant (RFC 7009), and the registration if this agent made it (RFC 7592 §2.3)."""
        endpoint = (await self.endpoints()).revoke
        if endpoint is not None and credentials.refresh_token:
            form = {"client_id": credentials.client_id, "token": credentials.refresh_token}
            answer = await self._ask("POST", endpoint, form=form)
            # 401: the client is gone with everything it held
            if answer.status not in {HTTPStatus.OK, HTTPStatus.UNAUTHORIZED}:
                raise self._refusal(answer)
        if credentials.registration_url:
            await self._ask("DELETE", credentials.registration_url, bearer=credentials.registration_token)

    async def _tokens(self, credentials: Credentials, form: Mapping[str, str]) -> Credentials:
        shared = {"client_id": credentials.client_id, "resource": self._vault.resource}
        answer = await self._ask("POST", (await self.endpoints()).token, form={**form, **shared})
        token_type, access_token = answer.text("token_type").lower(), answer.word("access_token")
        if answer.status == HTTPStatus.OK and token_type == "bearer" and access_token:
            return replace(
                credentials,
                access_token=access_token,
                refresh_token=answer.word("refresh_token") or credentials.refresh_token,
                expires_at=int(time.time()) + answer.seconds("expires_in", 60),
            )
        raise self._refusal(answer)

    def _refusal(self, answer: _Answer) -> BridgeRefused:
        if answer.status >= 500 or answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            return RemoteUnreachable(f"{self._vault.origin} answered {answer.status}: try again in a minute")
        error = answer.error or f"status {answer.status}"
        if error == "invalid_dpop_proof":
            return BridgeRefused(
                f"tokens.require_dpop is on at {self._vault.origin}, and Token Vault's commands can't prove a key: ask "
                "an admin to turn it off"
            )
        return GrantOver(f"the vault at {self._vault.origin} refused: {error}", error=error)

    async def _ask(
        self,
        method: str,
        url: str,
        *,
        form: Mapping[str, str] | None = None,
        content: Mapping[str, object] | None = None,
        bearer: str | None = None,
    ) -> _Answer:
        headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
        sent = dict(form) if form is not None else None
        body = bytearray()
        try:
            async with (
                asyncio.timeout(_PATIENCE),
                self._http.stream(
                    method, url, data=sent, json=content, headers=headers, timeout=_TIMEOUT, follow_redirects=False
                ) as answer,
            ):
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > _ANSWER_LIMIT:
                        raise BridgeRefused(
                            f"the answer from {self._vault.origin} is too large for a vault: check --url"
                        )
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            raise unreachable(self._vault, error) from error
        try:
            return _Answer(answer.status_code, json_object(bytes(body)))
        except (ValueError, RecursionError):
            return _Answer(answer.status_code, {})


def unreachable(vault: RemoteVault, error: Exception) -> RemoteUnreachable:
    """A sentence that explains why there is no answer, without any part of the request."""
    if isinstance(error, httpx2.ConnectError) and "certificate" in str(error).lower():
        return RemoteUnreachable(f"this machine doesn't trust the TLS certificate of {vault.origin}: ask its admin")
    return RemoteUnreachable(
        f"can't reach the vault at {vault.origin} ({type(error).__name__}): check that it's running and "
        "that this machine is online. The next call tries again"
    )


_ENDPOINTS: Final = ("authorization", "token", "registration", "device_authorization", "revocation")
