"""Access tokens for a private key that a person entered, obtained with an assertion or a signed bearer token, or signed
here.

RFC 7523 §2.1 (Google's service accounts), GitHub's installation tokens, and services that take the signed token itself
(Snowflake, Apple). Each token has only the requested scopes. Doesn't keep, log or raise keys or tokens.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from providers.credentials.entered_values import CredentialRefused, pack, public_values, unpack
from providers.credentials.signing import NotNarrowable, acts_for_other, facts_of, sign
from providers.definitions.credential_checks import address_names, fill_address
from providers.definitions.model import Provider
from providers.oauth.narrowing import item_of, seconds_until
from providers.oauth.token_requests import JSON, TokenRequestBytes, assertion_request
from providers.oauth.token_responses import ResponseContext, TokenOutcome, judge, not_now, outcome_without_answer
from providers.outbound.json_values import at, is_object, objects_at, text_at
from providers.outbound.messages import HttpError, OutboundResponse
from vault.upstream import Refusal, Silent, TokenAnswer

# Refusals of an assertion that mean "not for these scopes" if scopes were requested; Google's is unauthorized_client.
_NOT_THESE: Final = frozenset({"invalid_scope", "unauthorized_client", "access_denied"})
Send = Callable[[TokenRequestBytes], Awaitable[OutboundResponse]]


@dataclass(frozen=True, slots=True)
class SignedTokens:
    """How one service issues access tokens for a signed token. `send` sends a request once."""

    provider: Provider
    send: Send
    clock: Callable[[], float]

    async def obtain(self, packed: str, scopes: frozenset[str] | None, *, item: str | None = None) -> TokenOutcome:
        """A token for these scopes and this item; None: the file's default. Makes at most one request."""
        credential, now = self.provider.credential, int(self.clock())
        if credential is None:
            raise ValueError("a provider with OAuth")
        facts = facts_of(credential)
        try:
            values = unpack(credential, packed)
            public = public_values(credential, values, needed=address_names(self.provider))
            url = fill_address(self.provider.hosts.token_url, public)
            signed = sign(self.provider, values, scopes=scopes, now=now)
            body = self._permissions(scopes, item) if facts.sent == "bearer" else {}
        except (CredentialRefused, ValueError):
            return Refusal("invalid_client", "the credential no longer fits its provider file", ends_grant=True)
        except NotNarrowable:
            return Refusal("invalid_scope", f"{self.provider.title} has no token for these alone", ends_grant=False)
        if facts.sent == "itself":
            return TokenAnswer(signed, scopes=scopes, expires_in=facts.lifetime - facts.backdated)
        if facts.sent == "bearer":
            headers = {
                "Accept": JSON,
                "Content-Type": JSON,
                **self.provider.headers,
                "Authorization": f"Bearer {signed}",
            }
            written = TokenRequestBytes("POST", url, headers, json.dumps(body).encode())
        else:
            written = assertion_request(self.provider, url, signed)
        try:
            answer = await self.send(written)
        except HttpError as error:
            return outcome_without_answer(error)
        secrets = (signed, *(values[name] for name in credential.secrets if values[name]))
        if facts.sent == "bearer":
            return self._installation(answer, scopes, item=item, now=now)
        context = ResponseContext(is_refresh=True, secrets=secrets, now=now)
        return self._settle(
            judge(self.provider, answer, context), scopes, is_for_other=acts_for_other(credential, values)
        )

    def for_itself(self, packed: str) -> str | None:
        """The credential without the person whom it acts for; None if it names none."""
        credential = self.provider.credential
        if credential is None or credential.signed_token is None:
            return None
        values = unpack(credential, packed)
        if not acts_for_other(credential, values):
            return None
        return pack(credential, {name: "" if credential.fields[name].by_admin else one for name, one in values.items()})

    def _settle(self, outcome: TokenOutcome, scopes: frozenset[str] | None, *, is_for_other: bool) -> TokenOutcome:
        """RFC 7523 §3.1; an answer without `scope` is for the asserted scopes (RFC 6749 §5.1), which we signed
        ourselves."""
        if isinstance(outcome, TokenAnswer):
            granted = scopes if outcome.scopes is None else outcome.scopes
            return replace(outcome, refresh_token=None, scopes=granted)
        if not isinstance(outcome, Refusal):
            return outcome
        texts = frozenset[str]() if self.provider.credential is None else self.provider.credential.alive_texts
        if any(text in outcome.description for text in texts):  # for example, because our clock is wrong
            return replace(outcome, code="assertion_refused", ends_grant=False)
        if (scopes is not None or is_for_other) and outcome.code in _NOT_THESE:
            return replace(outcome, code="invalid_scope", ends_grant=False)
        return outcome

    def _permissions(self, scopes: frozenset[str] | None, item: str | None) -> dict[str, object]:
        """GitHub's body: scopes are `permission:level`, an item is a repository. Raises NotNarrowable."""
        if scopes is None and item is None:
            return {}
        levels: dict[str, str] = {}
        for scope in sorted(scopes or ()):  # read before write, so that the wider of the two stays
            permission, _, level = scope.partition(":")
            levels[permission] = level
        body: dict[str, object] = {"permissions": levels}
        if item is not None:
            found = item_of(self.provider, item)
            if found is None:
                raise NotNarrowable
            body["repositories"] = [unquote(found.parts["repo"])]
        return body

    def _installation(
        self, answer: OutboundResponse, scopes: frozenset[str] | None, *, item: str | None, now: int
    ) -> TokenOutcome:
        """GitHub's answer: the token, its end, its permissions, and the repositories that it reaches."""
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS or (
            answer.status == HTTPStatus.FORBIDDEN and answer.retry_after is not None
        ):
            return not_now(answer)
        content = answer.json_object()
        if answer.status >= 500 or content is None:
            return Silent(f"status {answer.status}", is_over=True)
        token, permissions = text_at(content, "token"), at(content, "permissions")
        if answer.status not in {HTTPStatus.OK, HTTPStatus.CREATED} or token is None:
            return self._refusal(answer.status, text_at(content, "message") or "", is_narrow=scopes is not None)
        granted: frozenset[str] | None = None
        if is_object(permissions) and self._is_confined(content, item):
            granted = frozenset(f"{name}:{level}" for name, level in permissions.items() if isinstance(level, str))
        lifetime = seconds_until(text_at(content, "expires_at"), now=now)
        return TokenAnswer(token, scopes=granted, expires_in=lifetime)

    def _is_confined(self, content: Mapping[str, object], item: str | None) -> bool:
        if item is None:
            return True
        found = item_of(self.provider, item)
        names = [(text_at(one, "full_name") or "").lower() for one in objects_at(content, "repositories")]
        wanted = "" if found is None else f"{unquote(found.parts['owner'])}/{unquote(found.parts['repo'])}".lower()
        return text_at(content, "repository_selection") == "selected" and names == [wanted]

    def _refusal(self, status: int, message: str, *, is_narrow: bool) -> Refusal:
        texts = frozenset[str]() if self.provider.credential is None else self.provider.credential.alive_texts
        if any(text in message for text in texts):
            return Refusal("assertion_refused", "", ends_grant=False)
        match status:
            case HTTPStatus.UNAUTHORIZED:
                return Refusal("invalid_grant", "the key is no longer accepted", ends_grant=True)
            case HTTPStatus.NOT_FOUND:
                return Refusal("invalid_grant", "the installation is gone", ends_grant=True)
            case HTTPStatus.UNPROCESSABLE_ENTITY if is_narrow:
                return Refusal("invalid_scope", "no such token for these permissions", ends_grant=False)
            case _:
                return Refusal(f"status_{status}", "", ends_grant=False)


def granted_scopes(provider: Provider, answer: TokenAnswer) -> frozenset[str] | None:
    """Everything that the credential may do, if its first answer has it (GitHub's permissions)."""
    credential = provider.credential
    if credential is None or credential.signed_token is None or credential.signed_token.sent != "bearer":
        return None
    if answer.scopes is None:
        return None
    reached = frozenset[str]().union(*(provider.covers.get(scope, frozenset()) for scope in answer.scopes))
    return (answer.scopes | reached) & provider.all_scopes
