"""`vault.upstream.UpstreamOAuth` for a service whose accounts are connected by a credential that people enter. A key is
the account's access token, and is never renewed. Client credentials and private keys take the refresh token's place,
and each refresh gets an access token with them (RFC 6749 §4.4; RFC 7523 §2.1 by `providers.oauth.signed_tokens`). Only
the person can end a credential, at the service; a probe shows whether it still works. Doesn't keep, log or raise
credentials.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from typing import Final

from providers.credentials.aws import error_code, is_clock_error
from providers.credentials.choices import within_limit
from providers.credentials.entered_values import CredentialRefused, all_values, public_values, unpack
from providers.credentials.placement import CredentialMismatch, authorize_request
from providers.definitions.credential import Credential
from providers.definitions.credential_checks import fill_address
from providers.definitions.model import Provider, Registration
from providers.oauth.secret_references import (
    EnteredReader,
    SecretUnavailable,
    held_references,
    keep_references,
    read_references,
)
from providers.oauth.sessions import EnteredSessions
from providers.oauth.signed_tokens import SignedTokens
from providers.oauth.token_requests import FORM, JSON, TokenRequestBytes, token_request
from providers.oauth.token_responses import ResponseContext, TokenOutcome, account_of, judge, outcome_without_answer
from providers.outbound.client import Outbound
from providers.outbound.json_values import at, text_at
from providers.outbound.messages import HttpError, OutboundRequest, OutboundResponse
from vault.upstream import (
    Account,
    NotSent,
    ProbeAnswer,
    ProbeOutcome,
    RefreshOutcome,
    Refusal,
    RevokeAnswer,
    RevokeOutcome,
    Rotation,
    TokenAnswer,
    UpstreamError,
)

TOTAL_TIMEOUT: Final = 10.0
_LATER: Final = 5  # seconds until a secret is read again
_REFUSED_LATER: Final = 60  # and until a refused one is sent again
_ENDS: Final = frozenset({"invalid_client", "unauthorized_client", "invalid_grant"})  # this person's, not ours
logger = logging.getLogger("token_vault.upstream")


class LookOutcome(StrEnum):
    """Whether the service accepts a credential."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"  # there is no lookup, or its answer is inconclusive
    SILENT = "silent"  # no answer


@dataclass(frozen=True, slots=True)
class CredentialLook:
    """The result of a lookup: the account, if the service names it, and how long to wait if it is rate limiting."""

    outcome: LookOutcome
    account: Account | None = None
    status: int = 0
    retry_after: int | None = None


class CredentialUpstream:
    """One service at which people enter credentials."""

    def __init__(
        self,
        provider: Provider,
        outbound: Outbound,
        *,
        clock: Callable[[], float] = time.time,
        secrets: EnteredReader | None = None,
    ) -> None:
        if provider.credential is None:
            raise ValueError("a provider with OAuth")
        self._provider = provider
        self._credential: Credential = provider.credential
        self._outbound = outbound
        self._secrets = secrets
        self._clock = clock
        self._signed = SignedTokens(provider, self._send, clock)
        self._sessions = EnteredSessions(provider, self._send, clock)

    @property
    def is_configured(self) -> bool:
        """Whether the operator lets people enter credentials for this service."""
        return self._provider.registration.is_on

    def authorization_url(
        self,
        *,
        redirect_uri: str,
        state: str,
        scopes: frozenset[str],
        code_verifier: str,
        login_hint: str | None = None,
    ) -> str:
        """Raises UpstreamError, because the person enters a credential on our page."""
        raise self._without_oauth()

    async def redeem(
        self,
        *,
        code: str,
        redirect_uri: str,
        code_verifier: str,
        state: str = "",
        keep: Callable[[TokenAnswer], Awaitable[None]] | None = None,
    ) -> TokenAnswer:
        """Raises UpstreamError, because there is no code."""
        raise self._without_oauth()

    async def enter(self, packed: str) -> tuple[TokenAnswer, CredentialLook]:
        """What to store of a credential that a person entered, and whether the service accepts it. Makes one or two
        requests of at most 10 s. Raises UpstreamError if the service refuses to issue a token for it.
        """
        if self._credential.kind == "key":
            return TokenAnswer(packed), await self.look(packed)
        outcome = await self._obtain(packed)
        if (
            isinstance(outcome, Refusal)
            and outcome.code == "invalid_scope"
            and (own := self._signed.for_itself(packed))
        ):
            outcome = await self._obtain(own)
            if isinstance(outcome, TokenAnswer):  # the key works; each exchange determines the scopes that it may have
                outcome = TokenAnswer("", expires_in=0)
        match outcome:
            case TokenAnswer():
                kept = outcome.refresh_token or packed
                return replace(outcome, refresh_token=kept), await self._look_at(packed, outcome.access_token)
            case Refusal():
                raise UpstreamError(outcome.code, outcome.description)
            case _:
                raise UpstreamError("temporarily_unavailable", f"{self._provider.title} didn't answer")

    async def _look_at(self, packed: str, token: str) -> CredentialLook:
        """The lookup with a token that was issued for a credential, whose own values may name the account."""
        if self._provider.identity.source != "credential":
            return await self.look(token)
        values = all_values(self._credential, unpack(self._credential, packed))
        shown = {name: text or " " for name, text in values.items() if name not in self._credential.secrets}
        account = account_of(self._provider, {"credential": shown})
        if account is not None:  # without the remains of an empty field
            account = Account(account.id.strip(), account.label.strip())
        return CredentialLook(LookOutcome.ALIVE, account)

    async def look(self, token: str) -> CredentialLook:
        """Look up the account, which uses up no token; repeated once after no answer.

        A secret that is kept elsewhere is read again.
        """
        if self._provider.identity.source != "endpoint":
            return CredentialLook(LookOutcome.UNKNOWN)
        try:
            if self._secrets is not None:
                token = await self._read(token, is_fresh=True)
            request = self._identity_request(token)
        except (CredentialMismatch, CredentialRefused, ValueError):
            return CredentialLook(LookOutcome.DEAD)  # it no longer fits the file
        except SecretUnavailable as error:
            logger.info("secret not read", extra={"provider": self._provider.name, "cause": error.description})
            return CredentialLook(LookOutcome.SILENT)
        if request is None:
            logger.info("look-up in no allowed region", extra={"provider": self._provider.name})
            return CredentialLook(LookOutcome.UNKNOWN)
        try:
            try:
                answer = await self._outbound.send(request)
            except HttpError:
                answer = await self._outbound.send(request)
        except HttpError as error:
            logger.info("look-up failed", extra={"provider": self._provider.name, "cause": error.reason})
            return CredentialLook(LookOutcome.SILENT)
        return self._judge(answer, token)

    def _judge(self, answer: OutboundResponse, token: str) -> CredentialLook:
        errors, credential, status = self._provider.errors, self._credential, answer.status
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= 500:
            return CredentialLook(LookOutcome.SILENT, status=status, retry_after=answer.retry_after)
        content = answer.json_content()
        says_no = errors.ok_flag is not None and at(content, errors.ok_flag) is not True
        if status < 300 and not says_no:
            return CredentialLook(LookOutcome.ALIVE, self._account(content, token), status)
        codes = {code for path in errors.code if (code := text_at(content, path)) is not None}
        says = " ".join(text for path in errors.message if (text := text_at(content, path)) is not None)
        if codes & errors.insufficient_scope or any(text in says for text in credential.alive_texts):
            return CredentialLook(LookOutcome.ALIVE, status=status)
        if credential.send.aws is not None:  # no policy can deny this lookup; a 403 from another one proves nothing
            is_dead = bool((codes | {error_code(answer.body)}) & errors.unauthorized)
            is_said = is_dead and not is_clock_error(answer.body)
            return CredentialLook(LookOutcome.DEAD if is_said else LookOutcome.SILENT, status=status)
        if codes & errors.unauthorized or status in credential.dead:
            return CredentialLook(LookOutcome.DEAD, status=status)
        outcome = LookOutcome.ALIVE if status in credential.alive else LookOutcome.UNKNOWN
        return CredentialLook(outcome, status=status)

    def _account(self, content: Mapping[str, object] | None, token: str) -> Account | None:
        if not self._provider.identity.id:
            return None
        return account_of(self._provider, {**(content or {}), "credential": self._public(token)})

    def _public(self, token: str) -> Mapping[str, str]:
        """The values that may be part of addresses; none with a token that was issued for a credential."""
        if self._credential.kind != "key":
            return {}
        return public_values(self._credential, unpack(self._credential, token))

    def _identity_request(self, token: str) -> OutboundRequest | None:
        """The token for the first region that the operator allows; None if the account is for none of them."""
        provider, identity = self._provider, self._provider.identity
        allowed = within_limit(provider, token)
        if allowed is None:
            return None
        headers, body = {"Accept": JSON, **provider.headers}, None
        if identity.body is not None:
            headers["Content-Type"], body = JSON, identity.body.encode()
        elif identity.method == "POST":
            headers["Content-Type"] = FORM
        url = fill_address(provider.identity_url, dict(self._public(allowed)))
        request = self._request(identity.method, url, headers, body)
        return authorize_request(provider, request, allowed)

    async def identify(self, access_token: str, answer: Mapping[str, object]) -> Account:
        """The account behind a working credential, with an empty ID if the service names none.

        Raises UpstreamError: `invalid_token` for one that doesn't work.
        """
        look = await self.look(access_token)
        match look.outcome:
            case LookOutcome.ALIVE:
                return look.account or Account("", "")
            case LookOutcome.DEAD:
                raise UpstreamError("invalid_token", f"{self._provider.title} no longer accepts it")
            case _:
                raise UpstreamError("account_unknown", f"{self._provider.title} didn't say which account this is")

    async def refresh(
        self, refresh_token: str, scopes: frozenset[str] | None = None, *, item: str | None = None
    ) -> RefreshOutcome:
        """An access token for client credentials; a key has none. One attempt, total deadline 10 s."""
        title = self._provider.title
        if self._credential.kind == "key":
            return Refusal("unsupported_grant_type", f"{title} issues no tokens for a key", ends_grant=False)
        signed = self._credential.signed_token
        if signed is None and scopes is not None:
            return Refusal("invalid_scope", f"{title} can't narrow a token by refresh", ends_grant=False)
        is_proven = signed is not None and signed.sent == "itself"
        outcome = await self._obtain(refresh_token, scopes, item=item, is_proven=is_proven)
        if isinstance(outcome, TokenAnswer):
            return Rotation(outcome)
        if isinstance(outcome, Refusal) and _is_over(outcome):
            return replace(outcome, ends_grant=True)
        return outcome

    async def _refusal_of(self, packed: str) -> Refusal | None:
        """Whether the service would refuse a signed token, found by a lookup, because no token endpoint reports it."""
        if self._provider.identity.source != "endpoint":
            return None
        outcome = await self._signed.obtain(packed, None)
        if not isinstance(outcome, TokenAnswer):
            return outcome if isinstance(outcome, Refusal) else None
        look = await self.look(outcome.access_token)
        match look.outcome:
            case LookOutcome.DEAD:
                return Refusal("invalid_grant", f"{self._provider.title} no longer accepts the key", ends_grant=True)
            case _:
                return None  # it may answer the call itself

    async def _obtain(
        self,
        packed: str,
        scopes: frozenset[str] | None = None,
        *,
        item: str | None = None,
        is_proven: bool = False,
    ) -> TokenOutcome:
        """A token for a credential that is kept here or elsewhere; calls `_request_token` with the secrets. A refused
        secret may have been replaced where it is kept, so it is read again, and the account stays. An account with a
        session ends instead, even if the secret can't be read then, because each repeated sign-in could lock the
        account there.
        """
        request = partial(self._request_token, scopes=scopes, item=item, is_proven=is_proven)
        if not held_references(self._provider, packed):
            return await request(packed)
        outcome: TokenOutcome | None = None
        try:
            used = await self._read(packed)
            outcome = await request(used)
            if _is_over(outcome) and (fresh := await self._read(packed, is_fresh=True)) != used:
                outcome = await request(fresh)
        except SecretUnavailable as error:
            if outcome is None or self._credential.kind != "session":
                return NotSent(error.description, retry_after=_LATER, lacks_secret=True)
        if isinstance(outcome, TokenAnswer) and outcome.refresh_token is not None:
            return replace(outcome, refresh_token=keep_references(self._provider, packed, outcome.refresh_token))
        if _is_over(outcome) and self._credential.kind != "session":
            refused = "the secret that is kept elsewhere is refused"
            return NotSent(refused, retry_after=_REFUSED_LATER, lacks_secret=True)
        return outcome

    async def _read(self, packed: str, *, is_fresh: bool = False) -> str:
        if self._secrets is None:
            raise SecretUnavailable("nothing reads references here")
        return await read_references(self._provider, packed, self._secrets, is_fresh=is_fresh)

    async def _request_token(
        self, packed: str, *, scopes: frozenset[str] | None, item: str | None, is_proven: bool
    ) -> TokenOutcome:
        """A token by the client credentials grant (RFC 6749 §4.4.2), or for a signed token; no refresh token.
        `is_proven`: only a token that the service doesn't refuse.
        """
        if self._credential.kind == "signed_token":
            refused = await self._refusal_of(packed) if is_proven else None
            return refused or await self._signed.obtain(packed, scopes, item=item)
        if self._credential.kind == "session":
            return await self._sessions.obtain(packed)
        try:
            values = unpack(self._credential, packed)
            url = fill_address(self._provider.hosts.token_url, public_values(self._credential, values))
        except (CredentialRefused, ValueError):
            return Refusal("invalid_client", "the credential no longer fits its provider file", ends_grant=True)
        client = self._provider.with_registration(
            Registration(values["client_id"], values["client_secret"], reach=self._provider.registration.reach)
        )
        parameters = {"grant_type": "client_credentials", **client.params.token}
        written = token_request(client, url, parameters)
        try:
            answer = await self._send(written)
        except HttpError as error:
            return outcome_without_answer(error)
        asked = ResponseContext(is_refresh=True, secrets=(values["client_secret"],), now=int(self._clock()))
        outcome = judge(client, answer, asked)
        return replace(outcome, refresh_token=None) if isinstance(outcome, TokenAnswer) else outcome

    async def _send(self, written: TokenRequestBytes, *, timeout: float = TOTAL_TIMEOUT) -> OutboundResponse:  # noqa: ASYNC109 -- passed on
        request = self._request(written.method, written.url, dict(written.headers), written.body)
        return await self._outbound.send(replace(request, timeout=timeout))

    async def narrow(self, access_token: str, scopes: frozenset[str], *, item: str | None = None) -> RefreshOutcome:
        """Refused: the service issues no narrower credential."""
        return Refusal("unsupported", f"{self._provider.title} can't narrow a credential", ends_grant=False)

    async def revoke(
        self, *, refresh_token: str | None, access_token: str | None, account: str | None = None
    ) -> RevokeAnswer:
        """Sign out of a session. No service is asked to end a credential: its person created it, and deletes it
        there."""
        references = held_references(self._provider, refresh_token or access_token or "")
        if self._credential.kind == "session":
            if refresh_token is not None and self._sessions.signs_out_with(references):
                try:
                    refresh_token = await self._read(refresh_token)
                except SecretUnavailable as error:
                    return NotSent(error.description, retry_after=_LATER, lacks_secret=True)
            return await self._sessions.end(refresh_token, access_token)
        if references:
            return RevokeOutcome.KEPT_ELSEWHERE
        return RevokeOutcome.UNSUPPORTED

    async def probe(
        self, *, refresh_token: str | None, access_token: str | None, is_fresh: bool, is_revoked: bool
    ) -> ProbeAnswer:
        """Whether the credential still works; one lookup, or one request for a token, which is discarded."""
        signed = self._credential.signed_token
        if signed is not None and signed.sent == "itself":
            outcome = (
                Refusal("unknown", "", ends_grant=False) if refresh_token is None else await self._obtain(refresh_token)
            )
            is_made = isinstance(outcome, TokenAnswer)
            return await self._probe_key(outcome.access_token) if is_made else ProbeAnswer(ProbeOutcome.UNPROVEN)
        if self._credential.kind in {"key", "session"}:
            if access_token is None:
                return ProbeAnswer(ProbeOutcome.UNPROVEN)
            probed = await self._probe_key(access_token)
            if probed.outcome is ProbeOutcome.DEAD and held_references(self._provider, access_token):
                return replace(probed, outcome=ProbeOutcome.UNPROVEN)  # another secret can replace it there
            speaks_for_all = is_fresh and (is_revoked or not self._sessions.may_renew(refresh_token))
            if probed.outcome is ProbeOutcome.DEAD and self._credential.kind == "session" and not speaks_for_all:
                return replace(probed, outcome=ProbeOutcome.UNPROVEN)
            return probed
        if refresh_token is None:
            return ProbeAnswer(ProbeOutcome.UNPROVEN)
        outcome = await self.refresh(refresh_token)
        match outcome:
            case Rotation():
                return ProbeAnswer(ProbeOutcome.ALIVE, ("refresh",))
            case Refusal() if outcome.ends_grant:
                return ProbeAnswer(ProbeOutcome.DEAD, ("refresh",))
            case NotSent():
                return ProbeAnswer(ProbeOutcome.SILENT, ("refresh",), outcome.retry_after)
            case _:
                return ProbeAnswer(ProbeOutcome.SILENT, ("refresh",))

    async def _probe_key(self, token: str) -> ProbeAnswer:
        if self._provider.identity.source != "endpoint":
            return ProbeAnswer(ProbeOutcome.UNPROVEN)
        look = await self.look(token)
        found = {LookOutcome.ALIVE: ProbeOutcome.ALIVE, LookOutcome.DEAD: ProbeOutcome.DEAD}
        return ProbeAnswer(found.get(look.outcome, ProbeOutcome.SILENT), ("identity",), look.retry_after)

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> OutboundRequest:
        return OutboundRequest(
            method=method,
            url=url,
            headers=headers,
            body=body,
            timeout=TOTAL_TIMEOUT,
            policy=self._provider.registration.reach,
            peer=f"{self._provider.name}.oauth",
            reuse=False,
        )

    def _without_oauth(self) -> UpstreamError:
        return UpstreamError("unsupported", f"enter a credential of {self._provider.title} instead")


def _is_over(outcome: TokenOutcome) -> bool:
    """Whether the service refuses the credential for good."""
    return isinstance(outcome, Refusal) and (outcome.ends_grant or outcome.code in _ENDS)
