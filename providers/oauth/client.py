"""OAuth with an upstream provider: `vault.upstream.UpstreamOAuth` by the facts of its provider file.

Sends each request once and follows no redirect. Doesn't keep, log or raise tokens. `providers.oauth.token_requests`
writes requests, `providers.oauth.token_responses` interprets answers; the vault decides when to refresh and what to
store.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from providers.credentials.certificates import client_identity
from providers.definitions.model import BY_CERTIFICATE, Provider
from providers.oauth.authorization_request import authorization_url
from providers.oauth.narrowing import (
    NarrowTokenRequest,
    exchange_answer,
    exchange_parameters,
    item_of,
    scoped_answer,
    scoped_fields,
)
from providers.oauth.probing import ProbeRequests, probe
from providers.oauth.token_requests import (
    JSON,
    JWT_BEARER,
    Fields,
    TokenRequestBytes,
    deauthorize_request,
    identity_request,
    long_lived_url,
    narrowing_parameter,
    native_request,
    renewal_request,
    revoke_request,
    token_request,
)
from providers.oauth.token_responses import (
    ResponseContext,
    TokenOutcome,
    account_of,
    clean_code,
    judge,
    not_now,
    outcome_without_answer,
    scopes_in,
)
from providers.outbound.client import Outbound
from providers.outbound.json_values import at, text_at
from providers.outbound.messages import HttpError, OutboundRequest, OutboundResponse, PeerBusy
from vault.upstream import (
    Account,
    Downscope,
    NotSent,
    ProbeAnswer,
    RefreshOutcome,
    Refusal,
    RevokeAnswer,
    RevokeOutcome,
    Rotation,
    RotationMode,
    Silent,
    TokenAnswer,
    UpstreamError,
)

TOTAL_TIMEOUT: Final = 10.0
_LEAST: Final = 1.0  # seconds: with less of a refresh's time left, it sends no further request
ANSWER_LIMIT: Final = 1_000_000  # bytes
logger = logging.getLogger("token_vault.upstream")


class OAuthUpstream:
    """OAuth with one provider, as the client in the settings."""

    def __init__(self, provider: Provider, outbound: Outbound, *, clock: Callable[[], float] = time.time) -> None:
        self._provider = provider
        self._outbound = outbound
        self._clock = clock  # for providers that report when a token ends instead of how long it lives

    @property
    def is_configured(self) -> bool:
        """Whether the client ID, and the secret or certificate that the provider needs, is set. Our own API needs
        none."""
        if self._provider.audience is not None:
            return True
        registration = self._provider.registration
        if self._provider.client_auth in BY_CERTIFICATE and registration.certificate_file is None:
            return False
        return bool(registration.client_id) and (bool(registration.client_secret) or not self._provider.needs_secret)

    def authorization_url(
        self,
        *,
        redirect_uri: str,
        state: str,
        scopes: frozenset[str],
        code_verifier: str,
        login_hint: str | None = None,
    ) -> str:
        """Where to send the person's browser; requests `scopes` and what identifies the account, and nothing else."""
        provider = self._provider
        asked = (
            (frozenset[str]() if provider.scope.app_level else scopes)
            | provider.scope.identity
            | provider.scope.offline
        )
        parameters = {"client_id": self._client_id(), "redirect_uri": redirect_uri, "state": state}
        parameters |= provider.params.authorize
        if asked:
            parameters[provider.scope.param] = provider.scope.separator.join(sorted(asked))
        if login_hint is not None:
            parameters["login_hint"] = login_hint
        return authorization_url(
            provider.hosts.authorize_url,
            parameters,
            code_verifier=code_verifier if provider.pkce == "S256" else None,
            names=provider.rename.authorize,
        )

    async def redeem(
        self,
        *,
        code: str,
        redirect_uri: str,
        code_verifier: str,
        state: str = "",
        keep: Callable[[TokenAnswer], Awaitable[None]] | None = None,
    ) -> TokenAnswer:
        """Redeem an authorization code and look up the account. Raises UpstreamError.

        `keep` receives the tokens as soon as they arrive, before the account is known and even if it never is.
        """
        provider = self._provider
        parameters = {"grant_type": "authorization_code", **provider.params.token, "code": code}
        parameters["redirect_uri"] = redirect_uri
        if provider.pkce == "S256":
            parameters["code_verifier"] = code_verifier
        if provider.state_at_token:
            parameters["state"] = state
        written = token_request(provider, provider.hosts.token_url, parameters)
        outcome = await self._ask(written, self._judge(self._context(code, code_verifier)))
        if isinstance(outcome, TokenAnswer):
            if keep is not None:
                await keep(outcome)
            outcome = await self._lengthen(outcome)
        match outcome:
            case TokenAnswer():
                return replace(outcome, account=await self._account(outcome))
            case Refusal():
                raise UpstreamError(outcome.code, outcome.description)
            case _:
                raise UpstreamError("temporarily_unavailable", f"{provider.title} didn't answer: {outcome.reason}")

    async def refresh(
        self, refresh_token: str, scopes: frozenset[str] | None = None, *, item: str | None = None
    ) -> RefreshOutcome:
        """One attempt, total deadline 10 s, no redirects. `scopes` asks for a narrower token (RFC 6749 §6)."""
        provider = self._provider
        if provider.refresh_tokens == "never":
            return Refusal("unsupported_grant_type", f"{provider.title} issues no refresh tokens", ends_grant=False)
        if scopes is not None and provider.downscope.mode is not Downscope.REFRESH_SCOPE:
            return Refusal("invalid_scope", f"{provider.title} can't narrow a token by refresh", ends_grant=False)
        if provider.refresh_tokens == "access_token":
            return await self._renew(refresh_token)
        parameters: Fields = {"grant_type": "refresh_token", **provider.params.refresh, "refresh_token": refresh_token}
        if scopes is not None:
            parameters = {**parameters, **narrowing_parameter(provider, scopes)}
        started = asyncio.get_running_loop().time()
        url = provider.hosts.refresh_url or provider.hosts.token_url
        written = token_request(self._provider, url, parameters)
        outcome = await self._ask(
            written, self._judge(self._context(refresh_token, is_refresh=True, spends=self._rotates))
        )
        logger.debug("refreshed", extra={"provider": provider.name, "outcome": type(outcome).__name__})
        if not isinstance(outcome, TokenAnswer):
            return outcome
        if outcome.refresh_token == refresh_token:
            outcome = replace(outcome, refresh_token=None)  # the same token again doesn't count as new
        if scopes is not None and outcome.scopes is None and outcome.refresh_token is None:
            # Not after receiving a new refresh token, which must be stored before anything else happens.
            left = TOTAL_TIMEOUT - (asyncio.get_running_loop().time() - started)
            if left > _LEAST:
                outcome = replace(outcome, scopes=await self._ask_scopes(outcome.access_token, timeout=left))
        return Rotation(outcome)

    async def _renew(self, access_token: str) -> RefreshOutcome:
        """Exchange the long-lived access token for its successor, which also takes the refresh token's place."""
        written = renewal_request(self._provider, access_token)
        asked = self._context(access_token, is_refresh=True, spends=self._rotates)
        outcome = await self._ask(written, self._judge(asked))
        if not isinstance(outcome, TokenAnswer):
            return outcome
        newest = outcome.access_token
        return Rotation(replace(outcome, refresh_token=None if newest == access_token else newest))

    async def redeem_assertion(self, assertion: str) -> TokenOutcome:
        """An access token for an assertion that was issued for us (RFC 7523 §2.1); one attempt, no other request. Drops
        a refresh token, because the next assertion gets the next access token.
        """
        provider = self._provider
        parameters = {"grant_type": JWT_BEARER, "assertion": assertion}
        written = token_request(provider, provider.hosts.token_url, parameters)
        outcome = await self._ask(written, self._judge(self._context(assertion, is_refresh=True)))
        return replace(outcome, refresh_token=None) if isinstance(outcome, TokenAnswer) else outcome

    async def name_account(self, answer: TokenAnswer) -> TokenAnswer:
        """The answer with the account behind it. Raises UpstreamError."""
        return replace(answer, account=await self._account(answer))

    async def narrow(self, access_token: str, scopes: frozenset[str], *, item: str | None = None) -> RefreshOutcome:
        """A narrower access token for an access token; one attempt, which uses up no token."""
        provider = self._provider
        request = NarrowTokenRequest(scopes, None if item is None else item_of(provider, item))
        if item is not None and request.item is None:
            return Refusal("invalid_target", f"{provider.title} doesn't know this item", ends_grant=False)
        asked = self._context(access_token)
        match provider.downscope.mode:
            case Downscope.NATIVE:
                fields = scoped_fields(request, access_token)
                written = native_request(provider, provider.downscope_url(provider.downscope.path) or "", fields)
                outcome = await self._ask(written, lambda answer: scoped_answer(answer, request, now=asked.now))
            case Downscope.EXCHANGE:
                fields = exchange_parameters(provider, request, access_token)
                written = token_request(provider, provider.hosts.token_url, fields)
                outcome = await self._ask(written, lambda answer: exchange_answer(provider, answer, request, asked))
            case _:
                return Refusal("unsupported", f"{provider.title} can't narrow an access token", ends_grant=False)
        return Rotation(outcome) if isinstance(outcome, TokenAnswer) else outcome

    async def _ask_scopes(self, access_token: str, *, timeout: float) -> frozenset[str] | None:  # noqa: ASYNC109 -- passed on
        """The scopes that the provider reports for this token; None when it reports none."""
        provider = self._provider
        url = provider.downscope_url(provider.downscope.told_path)
        if url is None:
            return None
        headers = {"Accept": JSON, "Content-Type": JSON, **provider.headers}
        written = TokenRequestBytes("POST", url, {**headers, **provider.authorize(access_token)}, b"{}")
        try:
            answer = await self._outbound.send(self._request(written, timeout=timeout))
        except HttpError:
            return None
        said = at(answer.json_object(), provider.downscope.scopes_at) if answer.status == HTTPStatus.OK else None
        return scopes_in(provider, said)

    async def revoke(
        self, *, refresh_token: str | None, access_token: str | None, account: str | None = None
    ) -> RevokeAnswer:
        """End the grant at the provider, or as much of it as the provider allows."""
        if self._provider.audience is not None:
            return RevokeOutcome.REVOKED  # we mint its tokens, and mint no more
        facts = self._provider.revoke
        url = self._provider.hosts.revoke_url
        if url is None or not self._provider.can_revoke:
            return RevokeOutcome.UNSUPPORTED
        if facts.account is not None:
            if not account:
                return RevokeOutcome.UNSUPPORTED
            return await self._end(deauthorize_request(self._provider, url, account=account))
        held = {"refresh_token": refresh_token, "access_token": access_token}
        present = [(kind, token) for kind in facts.tokens if (token := held[kind]) is not None]
        if not present:
            return RevokeOutcome.UNSUPPORTED
        for kind, token in present if facts.each else present[:1]:
            ended = await self._end(revoke_request(self._provider, url, kind, token=token))
            if ended is not RevokeOutcome.REVOKED:
                return ended
        return RevokeOutcome.REVOKED

    async def probe(
        self, *, refresh_token: str | None, access_token: str | None, is_fresh: bool, is_revoked: bool
    ) -> ProbeAnswer:
        """Ask whether the tokens of a grant that should be over still work; uses up no token and leaves no new one."""
        asking = ProbeRequests(
            send=lambda written: self._outbound.send(self._request(written)),
            refresh=self.refresh,
            revoke=lambda refresh, access: self.revoke(refresh_token=refresh, access_token=access),
        )
        return await probe(
            self._provider,
            asking,
            refresh_token=refresh_token,
            access_token=access_token,
            is_fresh=is_fresh,
            is_revoked=is_revoked,
        )

    async def _end(self, written: TokenRequestBytes) -> RevokeAnswer:
        """Whether the token in this request is now dead; a provider that no longer knows it reports an error."""
        try:
            answer = await self._outbound.send(self._request(written))
        except PeerBusy as error:  # too many of our own calls
            return NotSent(error.reason, retry_after=1)
        except HttpError as error:
            logger.info("revocation failed", extra={"provider": self._provider.name, "cause": error.reason})
            return Silent(error.reason)
        if answer.is_turned_away:
            return not_now(answer)
        ok_flag = self._provider.response.ok_flag
        content = answer.json_object()
        says_yes = ok_flag is None or at(content, ok_flag) is True
        if 200 <= answer.status < 300 and says_yes:
            return RevokeOutcome.REVOKED
        code = text_at(content, self._provider.response.error)
        if code in self._provider.errors.busy:
            return not_now(answer)
        is_dead = answer.status < 500 and code in self._provider.errors.ends_grant | {"invalid_token"}
        return RevokeOutcome.REVOKED if is_dead else RevokeOutcome.FAILED

    async def _ask(
        self, written: TokenRequestBytes, judged: Callable[[OutboundResponse], TokenOutcome]
    ) -> TokenOutcome:
        """Send one request and interpret its answer."""
        self._client_id()
        try:
            answer = await self._outbound.send(self._request(written))
        except HttpError as error:
            return outcome_without_answer(error)
        return judged(answer)

    def _judge(self, asked: ResponseContext) -> Callable[[OutboundResponse], TokenOutcome]:
        """Interpret an answer of the token endpoint."""
        return lambda answer: judge(self._provider, answer, asked)

    async def _lengthen(self, answer: TokenAnswer) -> TokenAnswer | Refusal | NotSent | Silent:
        """The long-lived token in place of the short one, if the provider has that step.

        Without refresh tokens, the grant ends with the access token.
        """
        url = long_lived_url(self._provider, answer.access_token)
        if url is not None:
            written = TokenRequestBytes("GET", url, {"Accept": JSON}, None)
            longer = await self._ask(written, self._judge(self._context(answer.access_token)))
            if not isinstance(longer, TokenAnswer):
                return longer
            answer = replace(answer, access_token=longer.access_token, expires_in=longer.expires_in)
        if self._provider.refresh_tokens == "never":
            ends = answer.expires_in if answer.grant_expires_in is None else answer.grant_expires_in
            answer = replace(answer, refresh_token=None, grant_expires_in=ends)
        if self._provider.refresh_tokens == "access_token":
            answer = replace(answer, refresh_token=answer.access_token)
        return answer

    async def identify(self, access_token: str, answer: Mapping[str, object]) -> Account:
        """The account behind a live access token that was issued elsewhere. Raises UpstreamError.

        `answer` is the token endpoint's answer, for providers that name the account in it.
        """
        provider = self._provider
        told = account_of(provider, answer) if provider.identity.source == "answer" else None
        return await self._account(TokenAnswer(access_token, account=told))

    async def _account(self, tokens: TokenAnswer) -> Account:
        """The account behind a new token: reading it is harmless, so a failed connection is retried once."""
        provider, identity = self._provider, self._provider.identity
        if provider.is_remote:  # MCP has no way to ask: a person has one account there, which connecting again renews
            return Account(id=provider.name, label=provider.title)
        if identity.source == "none":
            told = hashlib.sha256(tokens.access_token.encode()).hexdigest()[:12]
            return Account(id=f"unknown-{told}", label=f"{provider.title} {told[:6]}")
        if identity.source == "answer":
            if tokens.account is None:
                raise UpstreamError("account_unknown", f"{provider.title} didn't say which account this is")
            return tokens.account
        access_token = tokens.access_token
        written = identity_request(provider, access_token)
        try:
            try:
                answer = await self._outbound.send(self._request(written))
            except HttpError:
                answer = await self._outbound.send(self._request(written))
        except HttpError as error:
            text = f"{provider.title} didn't say which account this is: {error.reason}"
            raise UpstreamError("temporarily_unavailable", text) from error
        content = answer.json_object() if answer.status < 300 else None
        ok_flag = self._provider.errors.ok_flag
        if content is None or (ok_flag is not None and at(content, ok_flag) is not True):
            unsaid = "invalid_token" if answer.status == HTTPStatus.UNAUTHORIZED else "account_unknown"
            code = clean_code(text_at(content, "error") or unsaid, self._secrets(access_token))
            raise UpstreamError(code, f"{self._provider.title} didn't say which account this is")
        account = account_of(provider, content)
        if account is None:
            raise UpstreamError("account_unknown", f"{provider.title} didn't say which account this is")
        return account

    def _request(self, written: TokenRequestBytes, *, timeout: float | None = None) -> OutboundRequest:
        """Raises NotReached if our client certificate can't be used."""
        return OutboundRequest(
            method=written.method,
            url=written.url,
            headers=written.headers,
            body=written.body,
            timeout=TOTAL_TIMEOUT if timeout is None else timeout,
            max_bytes=ANSWER_LIMIT,
            policy=self._provider.registration.reach,
            peer=f"{self._provider.name}.oauth",
            reuse=False,
            identity=client_identity(self._provider.registration),
        )

    @property
    def _rotates(self) -> bool:
        return self._provider.rotation.mode is not RotationMode.NONE

    def _context(self, *sent: str, is_refresh: bool = False, spends: bool = False) -> ResponseContext:
        secrets, now = self._secrets(*sent), int(self._clock())
        return ResponseContext(is_refresh=is_refresh, secrets=secrets, now=now, spends=spends)

    def _client_id(self) -> str:
        client_id = self._provider.registration.client_id
        if client_id is None:
            raise UpstreamError("not_configured", f"no client is registered with {self._provider.title} yet")
        return client_id

    def _secrets(self, *sent: str) -> Sequence[str]:
        secret = self._provider.registration.client_secret
        return (*sent, secret) if secret is not None else sent
