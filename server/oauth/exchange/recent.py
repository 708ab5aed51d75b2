"""Token exchanges that repeat a recent one: the same request for the same person, with any subject token of theirs.

Keeps the answer of an exchange that released a provider's token for a few seconds, with the stored rows behind the
decision. For the next identical request, the subject token is verified as usual, and it gets the same answer only if
nothing has been committed to the database since, or one read shows all of these rows unchanged; its own event is
committed first. A revocation therefore takes effect immediately. Everything else, including refusals, is processed in
full.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from server.deployment import Deployment
from server.http.answers import json_answer
from server.oauth import tokens
from server.oauth.exchange import release
from server.oauth.exchange.exchange import SHORTEST
from server.oauth.rules import OAuthError
from server.oauth.token_rate import spend_request
from server.oauth.token_request import ExchangeAnswer, ReleasedToken
from server.runtime.recent import RecentDecisions
from vault import revoked_tokens
from vault.audit.audit import format_details
from vault.classes.immutable import immutable
from vault.exchange import recent
from vault.records import Client, Event
from vault.storage.database import Row

_TOKEN: Final = b"subject_token="
_DECIDING: Final = frozenset({b"authorization", b"content-type"})  # headers that are part of the request
_FOREIGN: Final = frozenset({b"dpop", b"origin"})  # headers that make an answer specific to this one request

_Key = tuple[object, ...]


@immutable
class RepeatableRequest:
    """A request in its repeatable form: `digest` covers all of it except the subject token, which is kept
    separately."""

    digest: bytes = field(repr=False)
    subject_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _KnownAnswer:
    """An answer, and the event that each release of it leaves."""

    release: ReleasedToken
    event: Event
    details: str  # of the event
    content: Mapping[str, object] = field(repr=False)
    grant: Row = field(repr=False)  # the stored row that names its revoked tokens


def question_of(request: Request, body: bytes) -> RepeatableRequest | None:
    """The repeatable form of a request; None if it cannot repeat.

    Two requests that differ only in the subject token have the same digest: the token is cut out in its encoded form. A
    second subject token would stay in the rest, but a request with two is refused, so its digest is never stored. A
    token with percent-encoded characters isn't valid in this form, so that request isn't answered here.
    """
    state: list[bytes] = []
    for name, value in request.scope["headers"]:
        if name in _DECIDING:
            state.append(name + b":" + value)
        elif name in _FOREIGN:
            return None
    before, name, rest = body.partition(_TOKEN)
    if not name or (before and not before.endswith(b"&")):
        return None
    token, _, after = rest.partition(b"&")
    state += (b"", before, b"\0", after)  # no LF in a header, no NUL in an answered form
    return RepeatableRequest(hashlib.sha256(b"\n".join(state)).digest(), token.decode("latin-1"))


def _key(question: RepeatableRequest, claims: tokens.AccessClaims) -> _Key:
    """The parts of a subject token that an exchange depends on, except its expiry and ID, which are checked each
    time."""
    return (
        question.digest,
        claims.subject,
        claims.client_id,
        claims.grant_id,
        claims.audience,
        claims.scopes,
        claims.actors,
        claims.key_thumbprint,
    )


class RepeatedExchanges:
    """The answers of one process.

    Keeping an answer costs as much as half an exchange, so only requests that occur a second time are kept.
    """

    def __init__(self) -> None:
        self._recent = RecentDecisions[_Key, _KnownAnswer]()
        self._digests = RecentDecisions[bytes, None]()  # a request with another digest isn't examined further

    async def answer(self, deployment: Deployment, question: RepeatableRequest) -> Response | None:
        """The same answer again; None if the full exchange is needed. Raises VaultError."""
        now = deployment.now()
        if self._digests.find(question.digest, now=now) is None:
            return None
        try:
            claims = await tokens.read_claims(deployment, question.subject_token, now=now)
        except OAuthError:
            return None  # the full exchange refuses it with its own text
        key = _key(question, claims)
        known = self._recent.find(key, now=now)
        if known is None or claims.expires_at - now < SHORTEST:
            return None
        basis = known.decided.release.basis
        mark = deployment.database.mark()
        if mark is None or mark != known.mark:  # something was committed, maybe a relevant row
            if not self._recent.is_current(key, await recent.look(deployment.database, basis)):
                return None
            known.mark = mark
        # another token with the same claims may be revoked
        if revoked_tokens.is_revoked(known.decided.grant, claims.token_id):
            return None
        client_id = known.decided.event.client_id or ""
        spend_request(deployment, user_id=claims.subject, client_id=client_id)
        await deployment.activity.record(known.decided.event, details=known.decided.details)
        ends = claims.expires_at, known.decided.release.expires_at
        return json_answer({**known.decided.content, "expires_in": release.seconds_left(*ends, now=now)})

    async def keep(
        self,
        deployment: Deployment,
        question: RepeatableRequest,
        *,
        client: Client,
        exchanged: ExchangeAnswer,
        now: int,
    ) -> None:
        """Keep an answer if all the stored rows that its decision depends on are still the same."""
        kept = exchanged.release
        if kept is None:
            return
        claims = await tokens.read_claims(deployment, question.subject_token, now=now)
        key = _key(question, claims)
        if not self._recent.is_repeated(key):
            return
        mark = deployment.database.mark()
        rows = await recent.look(deployment.database, kept.basis)
        if not recent.are_of(rows, kept.basis, client=client):
            return
        event = kept.event()
        answer = _KnownAnswer(kept, event, format_details(event.details), exchanged.content(), rows[0])
        self._recent.keep(key, answer, facts=rows, ends=kept.basis.ends, now=now, mark=mark)
        self._digests.keep(question.digest, None, facts=(), ends=(), now=now)
