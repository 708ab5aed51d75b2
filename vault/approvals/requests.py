"""Requests of clients that wait for the person's approval (OpenID CIBA Core 1.0): each is good for one token.

A request is an approval without a tool and a connection. Its id is a hash of the `auth_req_id`, which only the client
holds. No answer carries over to the next request: each one asks the person again. `server.oauth.backchannel` receives
them and issues the token, `vault.approvals.client_notices` has the pending messages to clients; writing functions
record no event.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import field
from typing import Final, TypeGuard

from vault.approvals import approvals, client_notices
from vault.approvals.approvals import MOST_OPEN, Approval
from vault.approvals.standing_approvals import canonical_digest
from vault.classes.immutable import immutable
from vault.keys.key_ring import KeyRing
from vault.records import TENANT, ApprovalState, format_scope, parse_scope
from vault.refusals import TemporarilyUnavailable
from vault.storage.database import Reader, Transaction, Value, fetch_count

_CONSUME: Final = """
    update approvals set state = :consumed, consumed_at = :now
    where tenant = :tenant and id = :id and client_id = :client_id and tool = :none and state = :approved
        and expires_at > :now
"""
_VOID: Final = """
    update approvals set expires_at = :now
    where tenant = :tenant and user_id = :user_id and client_id = :client_id and tool = :none
        and state in (:pending, :approved) and expires_at > :now
"""
_VOID_ALL: Final = """
    update approvals set expires_at = :now
    where tenant = :tenant and user_id = :user_id and tool = :none and state in (:pending, :approved)
        and expires_at > :now
"""
_CLOSE: Final = """
    update approvals set expires_at = created_at
    where tenant = :tenant and id = :id and state = :pending and expires_at <= :now
"""
_REFUSED: Final = """
    select count(*) as n from approvals where tenant = :tenant and user_id = :user_id and client_id = :client_id
    and tool = :none and state = :refused and decided_at > :since
"""
_STATES: Final[Mapping[str, Value]] = {"none": "", **{state.value: state.value for state in ApprovalState}}


@immutable
class BackchannelRequest:
    """What a client asks the person for: a token with these scopes for this resource, and for what purpose.

    `details` are the authorization details (RFC 9396), JSON objects.
    """

    scopes: frozenset[str]
    resource: str
    message: str = ""
    details: tuple[Mapping[str, object], ...] = field(default=())

    def arguments(self) -> dict[str, object]:
        """The purpose as JSON, as the person sees it and as it is bound."""
        found: dict[str, object] = {"scope": format_scope(self.scopes), "resource": self.resource}
        if self.message:
            found["binding_message"] = self.message
        if self.details:
            found["authorization_details"] = [dict(one) for one in self.details]
        return found


def request_of(approval: Approval) -> BackchannelRequest:
    """What was asked."""
    given = approval.arguments
    details = given.get("authorization_details")
    return BackchannelRequest(
        scopes=parse_scope(str(given.get("scope", ""))),
        resource=str(given.get("resource", "")),
        message=str(given.get("binding_message", "")),
        details=tuple(one for one in details if _is_object(one)) if _is_list(details) else (),
    )


def approval_id_of(auth_req_id: str) -> str:
    """The ID of the approval: seeing it doesn't let anyone poll."""
    digest = hashlib.sha256(b"auth_req_id " + auth_req_id.encode("utf-8", "replace")).digest()
    return "r" + urlsafe_b64encode(digest[:24]).decode()


async def ask(
    transaction: Transaction,
    ring: KeyRing,
    *,
    request: BackchannelRequest,
    user_id: str,
    client_id: str,
    lifetime: int,
    ping_token: str | None,
    is_pushed: bool = False,
    now: int,
) -> tuple[Approval, str]:
    """Store a request for its person; the `auth_req_id` itself is stored only for a client that gets notifications.

    `is_pushed`: the client is sent the answer itself, even if no one answered.

    Raises TemporarilyUnavailable when the client has `MOST_OPEN` open questions to this person, including tool calls.
    """
    if await approvals.count_open(transaction, user_id=user_id, client_id=client_id, now=now) >= MOST_OPEN:
        raise TemporarilyUnavailable(
            f"{MOST_OPEN} requests of this client already wait for the person's answer, so this one wasn't sent.",
            retry_after=60,
            detail="the client has too many open approvals",
        )
    auth_req_id = secrets.token_urlsafe(32)
    payload: dict[str, object] = {"arguments": request.arguments(), "scopes": sorted(request.scopes)}
    payload |= {"provider": "", "account": ""}
    if ping_token is not None:
        payload["ping"] = {"auth_req_id": auth_req_id, "token": ping_token}
    facts: dict[str, Value] = {
        "tenant": TENANT,
        "id": approval_id_of(auth_req_id),
        "user_id": user_id,
        "client_id": client_id,
        "connection_id": "",
        "tool": "",
        "digest": _digest(request, user_id=user_id, client_id=client_id),
        "created_at": now,
        "expires_at": now + lifetime,
    }
    approval = await approvals.keep_question(transaction, ring, facts, payload=payload)
    if is_pushed:
        await client_notices.note(transaction, approval, due_at=approval.expires_at)
    return approval, auth_req_id


async def find(reader: Reader, ring: KeyRing, auth_req_id: str, *, client_id: str) -> Approval | None:
    """The request of this client, in any state, for about a day after its end."""
    found = await approvals.get(reader, ring, approval_id_of(auth_req_id))
    return found if found is not None and found.is_request and found.client_id == client_id else None


async def consume(transaction: Transaction, approval: Approval, *, now: int) -> bool:
    """Use the person's approval for one token: True for only one of any number of contenders."""
    which = {"tenant": TENANT, "id": approval.id, "client_id": approval.client_id, "now": now}
    return await transaction.execute(_CONSUME, {**_STATES, **which}) == 1


async def close(transaction: Transaction, approval_id: str, *, now: int) -> None:
    """End a question that no one answered in time, for good.

    An approval counts from the time at which the person gave it, although it is stored a moment later.
    """
    await transaction.execute(_CLOSE, {**_STATES, "tenant": TENANT, "id": approval_id, "now": now})


async def void(transaction: Transaction, *, user_id: str, client_id: str | None, now: int) -> None:
    """End the open and unused requests to a person, of one client or of all: they end with the client's grant."""
    which: dict[str, Value] = {**_STATES, "tenant": TENANT, "user_id": user_id, "now": now}
    if client_id is None:
        await transaction.execute(_VOID_ALL, which)
    else:
        await transaction.execute(_VOID, which | {"client_id": client_id})


async def count_refused(reader: Reader, *, user_id: str, client_id: str, since: int) -> int:
    """How many requests of this client the person denied recently."""
    which = {"tenant": TENANT, "user_id": user_id, "client_id": client_id, "since": since}
    return await fetch_count(reader, _REFUSED, {**_STATES, **which})


def _digest(request: BackchannelRequest, *, user_id: str, client_id: str) -> bytes:
    return canonical_digest(
        {"client": client_id, "request": request.arguments(), "user": user_id},
        "These details can't be shown to the person exactly as they are: use plain text and smaller numbers.",
    )


def _is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[object]]:
    return isinstance(value, list)
