"""Sessions for what a person entered: signs in, renews, and signs out by the provider file. Doesn't keep, log or raise
them. A session that can't be renewed is followed by a new one, so a lost answer does no harm. The earlier one may still
be alive, and is signed out by its refresh token. The sealed text has what was entered, and the newest session's refresh
token.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import urlencode

from providers.credentials.entered_values import CredentialRefused, pack, public_values, session_of, unpack
from providers.definitions.credential import NAMES, Credential
from providers.definitions.credential_checks import address_names, fill_address
from providers.definitions.model import Provider
from providers.definitions.session import REFRESH_TOKEN, TOKEN, SessionExchange, SessionStep
from providers.oauth.token_requests import FORM, JSON, TokenRequestBytes
from providers.oauth.token_responses import ResponseContext, TokenOutcome, judge, not_now, outcome_without_answer
from providers.outbound.json_values import text_at
from providers.outbound.messages import HttpError, OutboundResponse, PeerBusy
from vault.upstream import NotSent, Refusal, RevokeAnswer, RevokeOutcome, Silent, TokenAnswer

_DEADLINE: Final = 10.0  # seconds for renewal and sign-in together
_FOR_RENEWAL: Final = 4.0  # of these, for the sign-in
_LATER: Final = 60  # seconds, if a rate-limiting service names no time: it may count failed sign-ins
_LATER_STATUSES: Final = frozenset({"status_404", "status_421"})  # seconds, if a service isn't available
_MISFIT: Final = Refusal("invalid_client", "the credential no longer fits its provider file", ends_grant=True)


class Send(Protocol):
    """Sends a request once."""

    def __call__(self, written: TokenRequestBytes, *, timeout: float) -> Awaitable[OutboundResponse]: ...


@dataclass(frozen=True, slots=True)
class EnteredSessions:
    """The sessions at one service."""

    provider: Provider
    send: Send
    clock: Callable[[], float]

    async def obtain(self, packed: str) -> TokenOutcome:
        """A session's token, and what to seal from now on; at most two requests within 10 s."""
        credential, facts = self._facts()
        began = asyncio.get_running_loop().time()
        try:
            values = unpack(credential, packed)
        except CredentialRefused:
            return _MISFIT
        hosts, held, is_left = self.provider.hosts, session_of(packed), False
        if facts.renew is not None and held:
            there = hosts.refresh_url or hosts.token_url
            outcome = await self._ask(facts.renew, there, {**values, REFRESH_TOKEN: held}, timeout=_FOR_RENEWAL)
            if not isinstance(outcome, Refusal | Silent):
                return self._seal(outcome, values, held)
            is_left = isinstance(outcome, Silent) or outcome.code in _LATER_STATUSES
        left = _DEADLINE - (asyncio.get_running_loop().time() - began)
        outcome = await self._ask(facts.sign_in, hosts.token_url, values, timeout=left)
        if isinstance(outcome, Refusal) and outcome.code not in _LATER_STATUSES:
            return replace(outcome, ends_grant=True)  # each repetition could lock the account there
        return self._seal(outcome, values, "", leaves_earlier=is_left)

    async def end(self, packed: str | None, token: str | None) -> RevokeAnswer:
        """Sign out; what was entered still works there.

        `token` None: for an earlier session, which can't be signed out (SESSION_LEFT).
        """
        left = RevokeOutcome.UNSUPPORTED if token is not None else RevokeOutcome.SESSION_LEFT
        credential, facts = self._facts()
        url, step = self.provider.hosts.revoke_url, facts.sign_out
        if url is None or step is None or packed is None:
            return left
        try:
            known = {**unpack(credential, packed), TOKEN: token or "", REFRESH_TOKEN: session_of(packed)}
            if any(not known[name] for name in _names(step) & {TOKEN, REFRESH_TOKEN}):
                return left
            answer = await self.send(self._write(step, url, known), timeout=_DEADLINE)
        except (CredentialRefused, ValueError):
            return RevokeOutcome.UNSUPPORTED
        except PeerBusy as error:
            return NotSent(error.reason, retry_after=1)
        except HttpError as error:
            return Silent(error.reason)
        if answer.is_turned_away:
            return not_now(answer, later=_LATER)
        code = text_at(answer.json_object() or {}, self.provider.response.error)
        errors = self.provider.errors
        is_refused = answer.status in credential.dead or code in errors.ends_grant | errors.unauthorized
        if token is None and is_refused:  # it was renewed, but the answer with its newer tokens was lost
            return left
        is_over = answer.status < 300 or is_refused
        return RevokeOutcome.REVOKED if is_over else RevokeOutcome.FAILED

    def may_renew(self, packed: str | None) -> bool:
        """Whether a refresh token is held, which can outlive a session's token."""
        return packed is not None and self._facts()[1].renew is not None and bool(session_of(packed))

    def signs_out_with(self, fields: Iterable[str]) -> bool:
        """Whether the end of a session needs any of these fields."""
        credential, facts = self._facts()
        named = frozenset(NAMES.findall(self.provider.hosts.revoke_url or ""))
        named |= frozenset() if facts.sign_out is None else _names(facts.sign_out)
        found = {name: credential.fields[name] for name in fields}
        return any(named & {name, *one.groups} or one.members for name, one in found.items())

    def _facts(self) -> tuple[Credential, SessionExchange]:
        credential = self.provider.credential
        if credential is None or credential.session is None:
            raise ValueError("a provider without sessions")
        return credential, credential.session

    async def _ask(self, step: SessionStep, url: str, values: Mapping[str, str], *, timeout: float) -> TokenOutcome:  # noqa: ASYNC109 -- passed on
        credential, _ = self._facts()
        try:
            written = self._write(step, url, values)
        except (CredentialRefused, ValueError):
            return _MISFIT
        try:
            answer = await self.send(written, timeout=max(timeout, 1.0))
        except HttpError as error:
            return outcome_without_answer(error)
        secrets = tuple(text for name in (*credential.secrets, REFRESH_TOKEN) if (text := values.get(name, "")))
        asked = ResponseContext(is_refresh=True, secrets=secrets, now=int(self.clock()), later=_LATER)
        outcome = judge(self.provider, answer, asked)
        if answer.status in credential.dead and not isinstance(outcome, NotSent):
            return Refusal("invalid_grant", "the sign-in was refused", ends_grant=True)
        is_unread = (
            isinstance(outcome, Silent)
            and 400 <= answer.status < 500
            and answer.status not in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY)
        )
        return Refusal(f"status_{answer.status}", "", ends_grant=False) if is_unread else outcome

    def _write(self, step: SessionStep, url: str, values: Mapping[str, str]) -> TokenRequestBytes:
        credential, _ = self._facts()
        entered = {name: values[name] for name in credential.fields}
        public = public_values(credential, entered, needed=address_names(self.provider))

        def fill(text: str) -> str:
            return NAMES.sub(lambda found: values.get(found[1], ""), text)

        fields = {name: made for name, text in step.fields.items() if (made := fill(text))}
        headers = {"Accept": JSON, **self.provider.headers, **{name: fill(text) for name, text in step.headers.items()}}
        body = b"" if step.method == "POST" else None
        if fields:
            is_json = self.provider.body == "json"
            headers["Content-Type"] = JSON if is_json else FORM
            body = json.dumps(_nest(fields)).encode() if is_json else urlencode(fields).encode()
        return TokenRequestBytes(step.method, fill_address(url, public), headers, body)

    def _seal(
        self, outcome: TokenOutcome, values: Mapping[str, str], held: str, *, leaves_earlier: bool = False
    ) -> TokenOutcome:
        if not isinstance(outcome, TokenAnswer):
            return outcome
        credential, _ = self._facts()
        packed = pack(credential, values, session=outcome.refresh_token or held)
        return replace(outcome, refresh_token=packed, scopes=None, leaves_earlier=leaves_earlier)


def _names(step: SessionStep) -> frozenset[str]:
    return frozenset(name for _, text in step.templates for name in NAMES.findall(text))


def _nest(fields: Mapping[str, str]) -> dict[str, object]:
    """The body in which `a.b` is the member `b` of the object `a`."""
    body: dict[str, object] = {}
    inside: dict[str, dict[str, str]] = {}
    for name, text in fields.items():
        outer, _, rest = name.partition(".")
        if rest:
            inside.setdefault(outer, {})[rest] = text
        else:
            body[name] = text
    return body | {outer: _nest(found) for outer, found in inside.items()}
