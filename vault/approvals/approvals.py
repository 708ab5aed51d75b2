"""Approvals: the person decides about one tool call with exactly these arguments, or one request of a client.

`pending -> approved | refused | expired -> consumed`. An approval is bound to the SHA-256 of the canonical JSON (RFC
8785) of tool, arguments, account, client and user, lives for minutes, and lets one call through. The arguments are
stored sealed and are shown to that person only. `vault.exchange` decides whether a call needs an approval; the server
owns the page and the link. `vault.approvals.requests` keeps clients' requests here, which have no tool.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TypeGuard

from vault.approvals.standing_approvals import StandingUse, canonical_digest
from vault.classes.immutable import immutable
from vault.envelope import Context, open_sealed, seal
from vault.keys.key_ring import KeyRing
from vault.records import DAY, TENANT, ApprovalState, Principal, new_id
from vault.refusals import StorageUnavailable, TemporarilyUnavailable, TransitionRefused
from vault.storage.database import (
    SWEEP_BATCH,
    Reader,
    Row,
    Transaction,
    Value,
    binary,
    fetch_count,
    integer,
    integer_or_none,
    text,
)

ASK_LIFETIME = 600  # seconds the person has to decide
USE_LIFETIME = 300  # seconds in which an approved call must arrive
RELEASE = "token:release"  # stands for a tool where an exchange releases the account's own token; no tool has this name
MOST_OPEN = 20  # open questions from one agent to one person: people who are asked too often approve without reading

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_KEY = "approvals"
_KEPT = DAY  # seconds after the end
_SELECT = """
    select id, user_id, client_id, connection_id, tool, digest, payload, state, created_at, expires_at, decided_at,
        consumed_at
    from approvals where tenant = :tenant
"""
_GET = f"{_SELECT} and id = :id"
_PENDING = f"{_SELECT} and user_id = :user_id and state = :pending and expires_at > :now order by created_at, id"
_ASKED = f"""
    {_SELECT} and user_id = :user_id and client_id = :client_id and connection_id = :connection_id and digest = :digest
    and state in (:pending, :refused) and expires_at > :now order by created_at desc limit 1
"""
_OPEN = """
    select count(*) as n from approvals where tenant = :tenant and user_id = :user_id and client_id = :client_id
    and state = :pending and expires_at > :now
"""
_STATES: Mapping[str, Value] = {state.value: state.value for state in ApprovalState}


class ToolCall:
    """A tool and its arguments, as a call within an exchange; read only when the person must be asked.

    `arguments` returns plain JSON values, `target` the arguments that a standing approval binds; None: no standing
    approval is possible. `standing_use`: the use that allowed this call, so that its second exchange (after a 401)
    doesn't use up another.
    """

    __slots__ = ("_attempt", "arguments", "standing_use", "target", "tool")

    def __init__(
        self,
        tool: str,
        arguments: Callable[[], Mapping[str, object]],
        *,
        target: Callable[[], Mapping[str, object] | None] = lambda: None,
    ) -> None:
        self.tool = tool
        self.arguments = arguments
        self.target = target
        self.standing_use: StandingUse | None = None
        self._attempt = ""

    @property
    def attempt(self) -> str:
        """Identifies this call, so that its second exchange (after a 401) needs no second approval."""
        self._attempt = self._attempt or secrets.token_urlsafe(16)
        return self._attempt

    def format_arguments(self) -> bytes:
        """The arguments as canonical JSON."""
        return _CANONICAL.encode(self.arguments()).encode("utf-8", "surrogatepass")


@immutable
class Ping:
    """What a client is sent once its person has answered: the ID of its request, with a token that the client chose."""

    auth_req_id: str = field(repr=False)
    token: str = field(repr=False)


@immutable
class Approval:
    """What the person is, or was, asked. `expires_at` ends the question or, once approved, the permission."""

    id: str
    user_id: str
    client_id: str
    connection_id: str
    tool: str
    digest: bytes
    provider: str
    account: str  # the account's display name
    scopes: tuple[str, ...]
    arguments: Mapping[str, object] = field(repr=False)
    state: ApprovalState
    created_at: int
    expires_at: int
    decided_at: int | None
    consumed_at: int | None
    ping: Ping | None = field(repr=False)

    @property
    def is_request(self) -> bool:
        """Whether a client asks for a token (`vault.approvals.requests`), not for a call of a tool."""
        return not self.tool

    def status(self, now: int) -> str:
        """The state, or `expired` when it ended undecided or unused."""
        is_open = self.state in (ApprovalState.PENDING, ApprovalState.APPROVED)
        return "expired" if is_open and now >= self.expires_at else self.state.value


def digest_of(call: ToolCall, *, account: str, client_id: str, user_id: str) -> bytes:
    """The digest that an approval is bound to. Raises ScopeRefused when the arguments have no canonical form."""
    bound = {
        "account": account,
        "arguments": dict(call.arguments()),
        "client": client_id,
        "tool": call.tool,
        "user": user_id,
    }
    return canonical_digest(
        bound, "These arguments can't be shown to the person exactly as they are: use plain text and smaller numbers."
    )


async def ask(
    transaction: Transaction,
    ring: KeyRing,
    *,
    call: ToolCall,
    principal: Principal,
    connection_id: str,
    provider: str,
    account: str,
    label: str,
    scopes: frozenset[str],
    now: int,
) -> tuple[Approval, bool]:
    """The approval to ask the person for, and whether it is new.

    The same call asks once: a repeat finds the pending question and, for some minutes, an earlier refusal. Raises
    TemporarilyUnavailable when the agent has about `MOST_OPEN` open questions.
    """
    digest = digest_of(call, account=account, client_id=principal.client_id, user_id=principal.user_id)
    asked = _which(principal, digest) | {"connection_id": connection_id}
    row = await transaction.fetch_one(_ASKED, {**_STATES, **asked, "now": now})
    if row is not None:
        return _approval(row, ring), False
    if await count_open(transaction, user_id=principal.user_id, client_id=principal.client_id, now=now) >= MOST_OPEN:
        raise TemporarilyUnavailable(
            f"{MOST_OPEN} requests of this agent are already waiting for the person's answer, so this one wasn't sent.",
            retry_after=60,
            detail="the agent has too many open approvals",
        )
    payload = {"arguments": dict(call.arguments()), "provider": provider, "account": label, "scopes": sorted(scopes)}
    facts = asked | {"id": new_id(24), "tool": call.tool, "created_at": now, "expires_at": now + ASK_LIFETIME}
    return await keep_question(transaction, ring, facts, payload=payload), True


async def count_open(reader: Reader, *, user_id: str, client_id: str, now: int) -> int:
    """How many questions from this agent wait for this person."""
    which: dict[str, Value] = {"tenant": TENANT, "user_id": user_id, "client_id": client_id, "now": now}
    return await fetch_count(reader, _OPEN, {**_STATES, **which})


async def keep_question(
    transaction: Transaction, ring: KeyRing, facts: Mapping[str, Value], *, payload: Mapping[str, object]
) -> Approval:
    """Store a new question; `facts` are its columns, except the state and the payload, which is sealed here."""
    row: dict[str, Value] = {
        **facts,
        "payload": _seal(ring, payload, approval_id=str(facts["id"])),
        "state": ApprovalState.PENDING.value,
        "decided_at": None,
        "consumed_at": None,
    }
    await transaction.execute(
        "insert into approvals (tenant, id, user_id, client_id, connection_id, tool, digest, payload, state, "
        "created_at, expires_at) values (:tenant, :id, :user_id, :client_id, :connection_id, :tool, :digest, "
        ":payload, :state, :created_at, :expires_at)",
        row,
    )
    return _approval(row, ring)


async def get(reader: Reader, ring: KeyRing, approval_id: str) -> Approval | None:
    """The approval with that id, of any user and in any state."""
    row = await reader.fetch_one(_GET, {"tenant": TENANT, "id": approval_id})
    return None if row is None else _approval(row, ring)


async def list_pending(reader: Reader, ring: KeyRing, user_id: str, *, now: int) -> tuple[Approval, ...]:
    """The person's open questions, oldest first."""
    rows = await reader.fetch(_PENDING, {**_STATES, "tenant": TENANT, "user_id": user_id, "now": now})
    return tuple(_approval(row, ring) for row in rows)


async def decide(
    transaction: Transaction, approval_id: str, *, user_id: str, is_approved: bool, now: int, kept_until: int = 0
) -> None:
    """Record the person's answer, once. Raises TransitionRefused when it was already given, is late, or isn't theirs to
    give.

    The approved call must arrive within minutes, or before `kept_until` if that is later.
    """
    changed = await transaction.execute(
        "update approvals set state = :state, decided_at = :now, expires_at = :expires_at "
        "where tenant = :tenant and id = :id and user_id = :user_id and state = :pending and expires_at > :now",
        {
            "tenant": TENANT,
            "id": approval_id,
            "user_id": user_id,
            "pending": ApprovalState.PENDING.value,
            "state": (ApprovalState.APPROVED if is_approved else ApprovalState.REFUSED).value,
            "expires_at": max(now + USE_LIFETIME, kept_until),
            "now": now,
        },
    )
    if changed != 1:
        raise TransitionRefused("this was already decided, or has expired", detail="the approval isn't pending")


async def consume(
    transaction: Transaction, *, principal: Principal, connection_id: str, digest: bytes, attempt: str, now: int
) -> bool:
    """Use up an approval of this exact call; False when there is none. The attempt that used it may come back.

    An approval for an earlier connection of the same account doesn't count: it ended with that connection.
    """
    row = await transaction.fetch_one(
        "select id from approvals where tenant = :tenant and user_id = :user_id and client_id = :client_id "
        "and connection_id = :connection_id and digest = :digest and ((state = :approved and expires_at > :now) "
        "or (state = :consumed and consumed_by = :attempt)) order by state desc, created_at limit 1",
        {**_STATES, **_which(principal, digest), "connection_id": connection_id, "attempt": attempt, "now": now},
    )
    if row is None:
        return False
    changed = await transaction.execute(
        "update approvals set state = :consumed, consumed_at = :now, consumed_by = :attempt where tenant = :tenant "
        "and id = :id and ((state = :approved and expires_at > :now) "
        "or (state = :consumed and consumed_by = :attempt))",
        {**_STATES, "tenant": TENANT, "id": text(row, "id"), "attempt": attempt, "now": now},
    )
    return changed == 1


async def withdraw(transaction: Transaction, approval_id: str, *, now: int) -> bool:
    """End a question, or an unused approval. False when it is already over."""
    changed = await transaction.execute(
        "update approvals set expires_at = :now where tenant = :tenant and id = :id "
        "and state in (:pending, :approved) and expires_at > :now",
        {
            "tenant": TENANT,
            "id": approval_id,
            "pending": ApprovalState.PENDING.value,
            "approved": ApprovalState.APPROVED.value,
            "now": now,
        },
    )
    return changed == 1


async def withdraw_calls(transaction: Transaction, tool: str, *, now: int) -> int:
    """End every open question and every unused approval for this tool."""
    return await transaction.execute(
        "update approvals set expires_at = :now where tenant = :tenant and id in"
        " (select id from approvals where expires_at > :now and tool = :tool and state in (:pending, :approved))",
        {
            "tenant": TENANT,
            "tool": tool,
            "pending": ApprovalState.PENDING.value,
            "approved": ApprovalState.APPROVED.value,
            "now": now,
        },
    )


async def sweep(transaction: Transaction, *, now: int) -> int:
    """Delete approvals that ended a day ago; the activity keeps the question and its outcome."""
    return await transaction.execute(
        "delete from approvals where tenant = :tenant and id in"
        " (select id from approvals where expires_at <= :before limit :batch)",
        {"tenant": TENANT, "before": now - _KEPT, "batch": SWEEP_BATCH},
    )


def _which(principal: Principal, digest: bytes) -> dict[str, Value]:
    return {"tenant": TENANT, "user_id": principal.user_id, "client_id": principal.client_id, "digest": digest}


def _context(approval_id: str) -> Context:
    return Context(purpose="approval", tenant=TENANT, record_id=approval_id)


def _seal(ring: KeyRing, payload: Mapping[str, object], *, approval_id: str) -> bytes:
    plain = json.dumps(payload, separators=(",", ":")).encode()
    return seal(plain, key=ring.subkey(_KEY), key_id=_KEY, context=_context(approval_id))


def _approval(row: Row, ring: KeyRing) -> Approval:
    approval_id = text(row, "id")
    plain = open_sealed(binary(row, "payload"), key=ring.subkey(_KEY), context=_context(approval_id))
    payload: object = json.loads(plain)
    if not _is_object(payload):
        raise StorageUnavailable("a stored approval can't be read", detail="its payload isn't a JSON object")
    arguments, scopes, ping = payload.get("arguments"), payload.get("scopes"), payload.get("ping")
    return Approval(
        id=approval_id,
        user_id=text(row, "user_id"),
        client_id=text(row, "client_id"),
        connection_id=text(row, "connection_id"),
        tool=text(row, "tool"),
        digest=binary(row, "digest"),
        provider=str(payload.get("provider")),
        account=str(payload.get("account")),
        scopes=tuple(str(scope) for scope in scopes) if _is_list(scopes) else (),
        arguments=arguments if _is_object(arguments) else {},
        state=ApprovalState(text(row, "state")),
        created_at=integer(row, "created_at"),
        expires_at=integer(row, "expires_at"),
        decided_at=integer_or_none(row, "decided_at"),
        consumed_at=integer_or_none(row, "consumed_at"),
        ping=Ping(str(ping.get("auth_req_id")), str(ping.get("token"))) if _is_object(ping) else None,
    )


def _is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)
