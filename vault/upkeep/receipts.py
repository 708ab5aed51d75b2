"""Receipts: the outcome of ending a grant at its provider, signed with the vault's signing key. Each grant has one
receipt, replaced with each attempt until the last one. A receipt contains IDs, the provider, the SHA-256 of tokens,
times, what was asked, and the result, but no person's name. The public keys are kept as long as receipts are, so that a
receipt can be verified after the signing key was replaced. `vault/FORMATS.md` has the format;
`vault.upkeep.revocations` issues them.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum
from typing import Final

from joserfc import jws
from joserfc.jwk import RSAKey

from vault.classes.immutable import immutable
from vault.records import LAST, TENANT, new_id
from vault.spans import KEY_USES
from vault.storage.database import Reader, Row, Transaction, Value, integer, integer_or_none, text, text_or_none
from vault.upstream import NotSent, ProbeAnswer, ProbeOutcome, RevokeAnswer, RevokeOutcome, Silent

TYPE: Final = "revocation-receipt+jwt"
NO_REVOCATION: Final = "no_revocation"  # the provider has no revocation for us: its person ends it
KEPT_ELSEWHERE: Final = RevokeOutcome.KEPT_ELSEWHERE.value  # no service can be asked about the secret anymore
SESSION_LEFT: Final = RevokeOutcome.SESSION_LEFT.value  # a session that a later one replaced: only its end ends it
NO_PROBE: Final = "no_probe"  # the provider accepted the revocation, and can't be asked


class ReceiptResult(StrEnum):
    """A receipt's result: the state of the tokens at the provider."""

    VERIFIED_DEAD = "verified_dead"
    STILL_ALIVE = "still_alive"
    UNSUPPORTED = "unsupported"  # it can't be revoked, or can't be checked: see the reason
    UNREACHABLE = "unreachable"


@immutable
class AttemptVerdict:
    """What an attempt shows. `outcome` is the revocation's; None while it will be retried unchanged."""

    result: ReceiptResult
    reason: str
    is_final: bool
    outcome: str


@immutable
class Evidence:
    """What an attempt did: the provider's answer to the revocation and to the probe, and which tokens were sent."""

    revoked: RevokeAnswer | None = None  # None: nothing could be sent
    probed: ProbeAnswer | None = None
    tokens: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)  # kind -> thumbprint


def judge(evidence: Evidence, *, is_last: bool) -> AttemptVerdict:
    """What the answers mean. Only a probe yields `dead`; without an answer, or while a token works, the attempt is
    repeated."""
    revoked = evidence.revoked
    probed = None if evidence.probed is None else evidence.probed.outcome
    match revoked, probed:
        case ((RevokeOutcome.KEPT_ELSEWHERE | RevokeOutcome.SESSION_LEFT), _):
            return AttemptVerdict(ReceiptResult.UNSUPPORTED, revoked.value, is_final=True, outcome="unsupported")
        case RevokeOutcome.UNSUPPORTED, ProbeOutcome.UNPROVEN | None:
            return AttemptVerdict(ReceiptResult.UNSUPPORTED, NO_REVOCATION, is_final=True, outcome="unsupported")
        case _, ProbeOutcome.DEAD:
            return AttemptVerdict(ReceiptResult.VERIFIED_DEAD, "refused", is_final=True, outcome="revoked")
        case RevokeOutcome.REVOKED, ProbeOutcome.UNPROVEN | None:
            return AttemptVerdict(ReceiptResult.UNSUPPORTED, NO_PROBE, is_final=True, outcome="revoked")
        case RevokeOutcome.UNSUPPORTED, ProbeOutcome.ALIVE:  # until its person deletes it there
            found = ReceiptResult.STILL_ALIVE, NO_REVOCATION, "alive"
        case RevokeOutcome.UNSUPPORTED, _:
            found = ReceiptResult.UNREACHABLE, "probe_unanswered", "unchecked"
        case RevokeOutcome.REVOKED, ProbeOutcome.ALIVE:
            found = ReceiptResult.STILL_ALIVE, "revoked_but_works", "alive"
        case RevokeOutcome.REVOKED, _:
            found = ReceiptResult.UNREACHABLE, "probe_unanswered", "unchecked"
        case RevokeOutcome.FAILED, ProbeOutcome.ALIVE:
            found = ReceiptResult.STILL_ALIVE, "revocation_refused", "failed"
        case RevokeOutcome.FAILED, _:
            found = ReceiptResult.UNREACHABLE, "revocation_refused", "failed"
        case NotSent() | Silent(), _:
            found = ReceiptResult.UNREACHABLE, "no_answer", "failed"
        case _:
            found = ReceiptResult.UNREACHABLE, "not_set_up", "failed"
    result, reason, outcome = found
    return AttemptVerdict(result, reason, is_final=is_last, outcome="given_up" if is_last else outcome)


def thumbprint(token: str) -> str:
    """SHA-256 of a token in base64url, to find the receipt of a token."""
    return urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()


@immutable
class EndedGrant:
    """The grant that a receipt is about."""

    connection_id: str
    user_id: str
    provider: str
    ended_at: int
    attempts: int
    pages: Sequence[str]  # the page where the person ends it themselves


@immutable
class Receipt:
    """A stored receipt; `token` is the signed form."""

    connection_id: str
    user_id: str
    provider: str
    result: str
    reason: str
    is_final: bool
    issued_at: int
    settled_at: int | None  # when someone reported that it was ended at the provider by hand
    settled_by: str | None
    token: str = field(repr=False)

    @property
    def is_open(self) -> bool:
        """Whether a person or a later attempt still has to act."""
        return (
            self.settled_at is None
            and self.result != ReceiptResult.VERIFIED_DEAD
            and self.reason not in {NO_PROBE, SESSION_LEFT}
        )


def sign(
    key: RSAKey, grant: EndedGrant, verdict: AttemptVerdict, evidence: Evidence, *, issuer: str, now: int
) -> Receipt:
    """The receipt of one attempt."""
    KEY_USES[key.kid or "", "sign"] += 1
    revoked, probed = evidence.revoked, evidence.probed
    claims: dict[str, object] = {
        "iss": issuer,
        "iat": now,
        "jti": new_id(),  # a restored backup counts attempts again
        "grant": grant.connection_id,
        "user": grant.user_id,
        "provider": grant.provider,
        "tokens": [{"kind": kind, "sha256": digest} for kind, digest in sorted(evidence.tokens.items())],
        "ended_at": grant.ended_at,
        "attempts": grant.attempts,
        "revocation": _in_a_word(revoked),
        "probe": "none" if probed is None else probed.outcome.value,
        "probed_by": [] if probed is None else list(probed.ways),
        "result": verdict.result.value,
        "reason": verdict.reason,
        "final": verdict.is_final,
    }
    if verdict.result is not ReceiptResult.VERIFIED_DEAD and grant.pages:
        claims["pages"] = list(grant.pages)
    header = {"alg": "RS256", "typ": TYPE, "kid": key.kid}
    payload = json.dumps(claims, separators=(",", ":"), sort_keys=True).encode()
    token = jws.serialize_compact(header, payload, key, algorithms=["RS256"])
    return Receipt(
        connection_id=grant.connection_id,
        user_id=grant.user_id,
        provider=grant.provider,
        result=verdict.result.value,
        reason=verdict.reason,
        is_final=verdict.is_final,
        issued_at=now,
        settled_at=None,
        settled_by=None,
        token=token,
    )


def _in_a_word(revoked: RevokeAnswer | None) -> str:
    if revoked is None:
        return "not_sent"
    return revoked.value if isinstance(revoked, RevokeOutcome) else "no_answer"


_STORE = """
    insert into revocation_receipts
        (tenant, connection_id, user_id, provider, result, reason, is_final, is_open, issued_at, receipt)
    values (:tenant, :connection_id, :user_id, :provider, :result, :reason, :is_final, :is_open, :issued_at, :receipt)
    on conflict (tenant, connection_id) do update set result = excluded.result, reason = excluded.reason,
        is_final = excluded.is_final, is_open = excluded.is_open, issued_at = excluded.issued_at,
        receipt = excluded.receipt
    where revocation_receipts.is_final = 0
"""
_KEEP_KEY = """
    insert into receipt_keys (tenant, kid, jwk, first_used_at) values (:tenant, :kid, :jwk, :now)
    on conflict (tenant, kid) do nothing
"""
_COLUMNS = "connection_id, user_id, provider, result, reason, is_final, issued_at, settled_at, settled_by, receipt"
_GET = f"select {_COLUMNS} from revocation_receipts where tenant = :tenant and connection_id = :id"  # noqa: S608  constants
_OF_USER = """
    select connection_id, user_id, provider, result, reason, is_final, issued_at, settled_at, settled_by,
        cast(:nothing as text) as receipt
    from revocation_receipts
    where tenant = :tenant and user_id = :user_id and (issued_at > :since or is_final = 0)
"""
_PAGE = f"""
    select {_COLUMNS} from revocation_receipts
    where tenant = :tenant and (issued_at < :at or (issued_at = :at and connection_id > :id))
    order by issued_at desc, connection_id limit :limit
"""  # noqa: S608
_OPEN = f"""
    select {_COLUMNS} from revocation_receipts
    where tenant = :tenant and (issued_at < :at or (issued_at = :at and connection_id > :id)) and is_open = 1
    order by issued_at desc, connection_id limit :limit
"""  # noqa: S608
_SETTLE = """
    update revocation_receipts set settled_at = :now, settled_by = :by, is_open = 0
    where tenant = :tenant and connection_id = :id and is_final = 1 and is_open = 1
"""


async def store(transaction: Transaction, receipt: Receipt, key: RSAKey) -> None:
    """Store a receipt in place of an earlier attempt's, with the public key that verifies it. A final one stays."""
    which: dict[str, Value] = {
        "tenant": TENANT,
        "connection_id": receipt.connection_id,
        "user_id": receipt.user_id,
        "provider": receipt.provider,
        "result": receipt.result,
        "reason": receipt.reason,
        "is_final": int(receipt.is_final),
        "is_open": int(receipt.is_open),
        "issued_at": receipt.issued_at,
        "receipt": receipt.token,
    }
    await transaction.execute(_STORE, which)
    await keep_key(transaction, key, now=receipt.issued_at)


async def keep_key(transaction: Transaction, key: RSAKey, *, now: int) -> None:
    """Store the public key that verifies the signatures."""
    jwk = json.dumps(key.as_dict(private=False), separators=(",", ":"))
    await transaction.execute(_KEEP_KEY, {"tenant": TENANT, "kid": key.kid, "jwk": jwk, "now": now})


async def get_receipt(reader: Reader, connection_id: str) -> Receipt | None:
    """The receipt of a grant, by the ID of its connection."""
    row = await reader.fetch_one(_GET, {"tenant": TENANT, "id": connection_id})
    return None if row is None else _receipt(row)


async def list_of_user(reader: Reader, user_id: str, *, since: int) -> Mapping[str, Receipt]:
    """A person's receipts since then, and older ones that aren't final, by connection; without signed forms."""
    which: Mapping[str, Value] = {"tenant": TENANT, "user_id": user_id, "since": since, "nothing": ""}
    rows = await reader.fetch(_OF_USER, which)
    return {one.connection_id: one for one in map(_receipt, rows)}


async def list_page(
    reader: Reader, *, only_open: bool, before: tuple[int, str] | None = None, limit: int
) -> tuple[Receipt, ...]:
    """Receipts, newest first; `only_open`: those that still need action by someone or a later attempt."""
    at, after = before or (LAST, "")
    rows = await reader.fetch(_OPEN if only_open else _PAGE, {"tenant": TENANT, "at": at, "id": after, "limit": limit})
    return tuple(map(_receipt, rows))


async def settle(transaction: Transaction, connection_id: str, *, by: str, now: int) -> bool:
    """Record that someone ended the grant at the provider by hand; returns whether there was something to settle."""
    which: Mapping[str, Value] = {"tenant": TENANT, "id": connection_id, "by": by, "now": now}
    return await transaction.execute(_SETTLE, which) == 1


async def public_keys(reader: Reader) -> dict[str, object]:
    """The JWK set (RFC 7517 §5) that verifies every receipt, including those of replaced signing keys."""
    rows = await reader.fetch("select jwk from receipt_keys where tenant = :tenant order by kid", {"tenant": TENANT})
    return {"keys": [json.loads(text(row, "jwk")) for row in rows]}


def _receipt(row: Row) -> Receipt:
    return Receipt(
        connection_id=text(row, "connection_id"),
        user_id=text(row, "user_id"),
        provider=text(row, "provider"),
        result=text(row, "result"),
        reason=text(row, "reason"),
        is_final=integer(row, "is_final") == 1,
        issued_at=integer(row, "issued_at"),
        settled_at=integer_or_none(row, "settled_at"),
        settled_by=text_or_none(row, "settled_by"),
        token=text(row, "receipt"),
    )
