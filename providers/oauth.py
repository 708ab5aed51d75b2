"""OAuth with an upstream provider: `vault.upstream.UpstreamOAuth` by the facts of its provider file, over authlib.

Sends each request once and follows no redirect. Keeps no token, logs none and raises none. What an answer means is
`providers.token_answers`; when to refresh and what to store is left to the vault.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import httpx2
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.client import OAuth2Client

from providers.answers import at, fill, text_at
from providers.http import HttpError, Outbound, OutboundRequest, OutboundResponse
from providers.provider import Provider
from providers.token_answers import Asked, clean_code, judge
from providers.tools import as_data
from vault.upstream import (
    Account,
    Downscope,
    NotSent,
    RefreshOutcome,
    Refused,
    RevokeOutcome,
    Rotated,
    Silent,
    TokenAnswer,
    UpstreamError,
)

TOTAL_TIMEOUT: Final = 10.0
ANSWER_LIMIT: Final = 1_000_000  # bytes
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
logger = logging.getLogger("token_vault.upstream")


class _Judged(Exception):
    """Carries what an answer means out of authlib, whose own parser cannot tell silence from refusal."""

    def __init__(self, outcome: TokenAnswer | Refused | NotSent | Silent) -> None:
        super().__init__()
        self.outcome = outcome


class _TokenClient(Protocol):
    """What we use of authlib's client, typed."""

    def register_compliance_hook(self, hook_type: str, hook: Callable[[httpx2.Response], httpx2.Response]) -> None: ...
    def fetch_token(self, url: str, **parameters: str) -> Awaitable[object]: ...
    def refresh_token(self, url: str, **parameters: str) -> Awaitable[object]: ...
    def revoke_token(self, url: str, **parameters: str) -> Awaitable[httpx2.Response]: ...


class _AuthorizationClient(Protocol):
    def create_authorization_url(
        self, url: str, *, state: str, code_verifier: str, **parameters: str
    ) -> tuple[str, str]: ...


class AuthlibUpstream:
    """OAuth with one provider as the client that settings registered there."""

    def __init__(self, provider: Provider, outbound: Outbound) -> None:
        self._provider = provider
        self._outbound = outbound

    @property
    def is_configured(self) -> bool:
        """Whether a client id, and a secret where the provider needs one, is set."""
        registration = self._provider.registration
        return bool(registration.client_id) and (
            bool(registration.client_secret) or self._provider.client_auth == "none"
        )

    def authorization_url(
        self,
        *,
        redirect_uri: str,
        state: str,
        scopes: frozenset[str],
        code_verifier: str,
        login_hint: str | None = None,
    ) -> str:
        """Where to send the person's browser; asks for `scopes` and what tells the account, nothing else."""
        provider = self._provider
        asked = scopes | provider.scope.identity | provider.scope.offline
        parameters: dict[str, str] = {**provider.params.authorize}
        parameters[provider.scope.param] = provider.scope.separator.join(sorted(asked))
        if login_hint is not None:
            parameters["login_hint"] = login_hint
        method = None if provider.pkce == "off" else provider.pkce
        client = _authorization_client(self._client_id(), redirect_uri=redirect_uri, code_challenge_method=method)
        url, _ = client.create_authorization_url(
            provider.hosts.authorize_url, state=state, code_verifier=code_verifier, **parameters
        )
        return url

    async def redeem(self, *, code: str, redirect_uri: str, code_verifier: str) -> TokenAnswer:
        """Redeem an authorization code and look up the account. Raises UpstreamError."""
        provider = self._provider
        parameters: dict[str, str] = {**provider.params.token, "grant_type": "authorization_code", "code": code}
        parameters["redirect_uri"] = redirect_uri
        if provider.pkce == "S256":
            parameters["code_verifier"] = code_verifier
        asked = Asked(is_refresh=False, secrets=self._secrets(code, code_verifier))

        async def send(client: _TokenClient) -> object:
            return await client.fetch_token(provider.hosts.token_url, **parameters)

        outcome = await self._ask(send, asked, hook="access_token_response")
        match outcome:
            case TokenAnswer():
                return replace(outcome, account=await self._account(outcome.access_token))
            case Refused():
                raise UpstreamError(outcome.code, outcome.description)
            case _:
                raise UpstreamError("temporarily_unavailable", f"{provider.title} did not answer: {outcome.reason}")

    async def refresh(self, refresh_token: str, scopes: frozenset[str] | None = None) -> RefreshOutcome:
        """One attempt, total deadline 10 s, no redirects. `scopes` asks for a narrower token (RFC 6749 §6)."""
        provider = self._provider
        if scopes is not None and provider.downscope.mode is not Downscope.REFRESH_SCOPE:
            return Refused("invalid_scope", f"{provider.title} cannot narrow a token by refresh", ends_grant=False)
        parameters: dict[str, str] = {**provider.params.refresh, "refresh_token": refresh_token}
        if scopes is not None:
            parameters["scope"] = provider.scope.separator.join(sorted(scopes))
        asked = Asked(is_refresh=True, secrets=self._secrets(refresh_token))
        url = provider.hosts.refresh_url or provider.hosts.token_url

        async def send(client: _TokenClient) -> object:
            return await client.refresh_token(url, **parameters)

        outcome = await self._ask(send, asked, hook="refresh_token_response")
        logger.debug("refreshed", extra={"provider": provider.name, "outcome": type(outcome).__name__})
        if not isinstance(outcome, TokenAnswer):
            return outcome
        if outcome.refresh_token == refresh_token:
            outcome = replace(outcome, refresh_token=None)  # the same one again is not a new one
        return Rotated(outcome)

    async def narrow(self, access_token: str, scopes: frozenset[str]) -> RefreshOutcome:
        """No provider here narrows an access token; those that can narrow do it on refresh."""
        return Refused("unsupported", f"{self._provider.title} cannot narrow an access token", ends_grant=False)

    async def revoke(self, *, refresh_token: str | None, access_token: str | None) -> RevokeOutcome:
        """End the grant at the provider, or as much of it as the provider lets us."""
        facts = self._provider.revoke
        url = self._provider.hosts.revoke_url
        if url is None:
            return RevokeOutcome.UNSUPPORTED
        held = {"refresh_token": refresh_token, "access_token": access_token}
        present = [(kind, token) for kind in facts.tokens if (token := held[kind]) is not None]
        if not present:
            return RevokeOutcome.UNSUPPORTED
        for kind, token in present if facts.each else present[:1]:
            if not await self._revoke(url, kind, token):
                return RevokeOutcome.FAILED
        return RevokeOutcome.REVOKED

    async def _revoke(self, url: str, kind: str, token: str) -> bool:
        """Whether the token is dead now; a provider that no longer knows it says so as an error."""
        facts = self._provider.revoke
        try:
            if facts.token_in == "header":
                answer = await self._send("POST", url, headers={**_FORM, "Authorization": f"Bearer {token}"})
            elif facts.client_auth:
                answer = await self._revoke_as_client(url, kind, token)
            else:
                body = str(httpx2.QueryParams({"token": token})).encode()
                answer = await self._send("POST", url, headers=_FORM, body=body)
        except (HttpError, httpx2.TransportError) as error:
            logger.info("revocation failed", extra={"provider": self._provider.name, "cause": type(error).__name__})
            return False
        ok_flag = self._provider.response.ok_flag
        content = answer.json_object()
        says_yes = ok_flag is None or at(content, ok_flag) is True
        if 200 <= answer.status < 300 and says_yes:
            return True
        code = text_at(content, "error")
        dead = self._provider.errors.ends_grant | {"invalid_token"}
        return answer.status < 500 and answer.status != 429 and code in dead

    async def _revoke_as_client(self, url: str, kind: str, token: str) -> OutboundResponse:
        answer = await self._client().revoke_token(url, token=token, token_type_hint=kind)
        return OutboundResponse(answer.status_code, dict(answer.headers), answer.content)

    async def _ask(
        self, send: Callable[[_TokenClient], Awaitable[object]], asked: Asked, *, hook: str
    ) -> TokenAnswer | Refused | NotSent | Silent:
        def judged(response: httpx2.Response) -> httpx2.Response:
            answer = OutboundResponse(response.status_code, dict(response.headers), response.content)
            raise _Judged(judge(self._provider, answer, asked))

        outcome: TokenAnswer | Refused | NotSent | Silent = Silent("no answer")
        try:
            client = self._client()
            client.register_compliance_hook(hook, judged)
            await send(client)
        except _Judged as carried:
            outcome = carried.outcome
        except httpx2.ConnectError as error:
            outcome = NotSent(str(error))
        except httpx2.TransportError as error:
            outcome = Silent(str(error))
        return outcome

    def _client(self) -> _TokenClient:
        """A client for one request, since authlib's keeps the last token that it saw. It holds nothing to close."""
        registration = self._provider.registration
        return AsyncOAuth2Client(
            client_id=self._client_id(),
            client_secret=registration.client_secret,
            token_endpoint_auth_method=self._provider.client_auth,
            revocation_endpoint_auth_method=self._provider.client_auth,
            transport=self._outbound.httpx2_transport(peer=f"{self._provider.name}.oauth", timeout=TOTAL_TIMEOUT),
            follow_redirects=False,
            trust_env=False,
        )

    async def _account(self, access_token: str) -> Account:
        """The account behind a fresh token: reading it is harmless, so a failed connection is tried once more."""
        identity = self._provider.identity
        headers = {"Authorization": f"Bearer {access_token}", "Accept": "application/json"}
        try:
            try:
                answer = await self._send(identity.method, self._provider.identity_url, headers=headers)
            except HttpError:
                answer = await self._send(identity.method, self._provider.identity_url, headers=headers)
        except HttpError as error:
            text = f"{self._provider.title} did not say which account this is: {error.reason}"
            raise UpstreamError("temporarily_unavailable", text) from error
        content = answer.json_object() if answer.status < 300 else None
        ok_flag = self._provider.errors.ok_flag
        if content is None or (ok_flag is not None and at(content, ok_flag) is not True):
            code = clean_code(text_at(content, "error") or "account_unknown", self._secrets(access_token))
            raise UpstreamError(code, f"{self._provider.title} did not say which account this is")
        account_id = fill(identity.id, content)
        if account_id is None or len(account_id) > 255 or not account_id.isprintable():
            raise UpstreamError("account_unknown", f"{self._provider.title} did not say which account this is")
        return Account(id=account_id, label=as_data(fill(identity.label, content) or account_id, limit=200))

    async def _send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> OutboundResponse:
        return await self._outbound.send(
            OutboundRequest(
                method=method,
                url=url,
                headers=headers,
                body=body,
                timeout=TOTAL_TIMEOUT,
                max_bytes=ANSWER_LIMIT,
                peer=f"{self._provider.name}.oauth",
                reuse=False,
            )
        )

    def _client_id(self) -> str:
        client_id = self._provider.registration.client_id
        if client_id is None:
            raise UpstreamError("not_configured", f"no client is registered with {self._provider.title} yet")
        return client_id

    def _secrets(self, *sent: str) -> Sequence[str]:
        secret = self._provider.registration.client_secret
        return (*sent, secret) if secret is not None else sent


def _authorization_client(
    client_id: str, *, redirect_uri: str, code_challenge_method: str | None
) -> _AuthorizationClient:
    return OAuth2Client(
        None, client_id=client_id, redirect_uri=redirect_uri, code_challenge_method=code_challenge_method
    )
