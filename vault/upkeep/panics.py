"""End many grants at once: those of a person, of an agent, at a provider, or all.

`start` records the request, `go_on` disconnects account after account until none is left that was connected before. Any
process can do it: if one is killed, another's upkeep or the next call does the rest. Each disconnected grant is then
ended at its provider as usual (`vault.upkeep.revocations`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Literal

from vault import clients, connections, users
from vault.audit.audit import append
from vault.classes.immutable import immutable
from vault.records import LAST, TENANT, Event, Tell, new_id, tell_nobody
from vault.refresh.concurrency import Vault
from vault.refusals import TransitionRefused
from vault.storage.database import Reader, Row, Transaction, Value, integer, integer_or_none, text
from vault.upkeep.receipts import NO_PROBE, ReceiptResult

BATCH: Final = 100
Kind = Literal["user", "client", "provider", "all"]
_KINDS: Final[Mapping[str, Kind]] = {"user": "user", "client": "client", "provider": "provider", "all": "all"}
# Conditions on rows `t` with the columns tenant, connection_id, user_id and provider. An agent's are those that it
# could use when this began, because its permissions may have ended since.
_WHOSE: Final[Mapping[Kind, str]] = {
    "user": "t.user_id = :subject",
    "provider": "t.provider = :subject",
    "client": """exists (
        select 1 from delegations d
        where d.tenant = t.tenant and d.connection_id = t.connection_id and d.client_id = :subject
            and (d.revoked_at is null or d.revoked_at >= :since)
            and (d.expires_at is null or d.expires_at > :since)
    )""",
    "all": "cast(:subject as text) is not null and cast(:since as bigint) is not null",
}
_HELD: Final = """exists (
    select 1 from upstream_revocations u
    where u.tenant = t.tenant and u.connection_id = t.connection_id and u.done_at is null and u.next_at is null
)"""
_LIVE: Final = """
    (select k.tenant, k.id as connection_id, k.user_id, k.provider, k.created_at from connections k
     where k.tenant = :tenant and k.ended_at is null) t
"""


@immutable
class Panic:
    """A request to end many grants at once. `subject` is the ID of a person or agent, or the name of a provider."""

    id: str
    kind: Kind
    subject: str
    requested_by: str
    requested_at: int
    since: int  # when the first unfinished request for the same was made: it covers what an agent could use then
    done_at: int | None = None


@immutable
class EndedCounts:
    """Number of grants by what is known about their end at the provider. `waiting`: not attempted yet."""

    waiting: int = 0
    verified_dead: int = 0
    settled: int = 0  # someone reported that they ended it by hand
    unverified: int = 0  # the provider accepted the revocation, and can't be asked
    retried: int = 0  # provider unreachable, or grant still alive; will be retried
    by_hand: int = 0  # can't be ended from here
    still_alive: int = 0  # whatever the provider says
    held: int = 0  # not ended, because that could also end a live connection of the same account

    @property
    def total(self) -> int:
        known = self.verified_dead + self.settled + self.unverified + self.by_hand + self.still_alive
        return known + self.waiting + self.retried + self.held

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.waiting or self.retried or self.by_hand or self.still_alive or self.held)


def _parameters(kind: Kind, subject: str, *, since: int) -> dict[str, Value]:
    named: dict[str, Value] = {"tenant": TENANT, "subject": subject}
    return named if kind in ("user", "provider") else {**named, "since": since}


async def reach(reader: Reader, kind: Kind, subject: str, *, since: int) -> Mapping[str, int]:
    """The live accounts that would be ended, by provider; an agent's are those that it could use. Changes nothing."""
    rows = await reader.fetch(
        f"select t.provider, count(*) as n from {_LIVE} where {_WHOSE[kind]} group by t.provider order by t.provider",  # noqa: S608  constants
        _parameters(kind, subject, since=since),
    )
    return {text(row, "provider"): integer(row, "n") for row in rows}


async def count_ended(reader: Reader, kind: Kind, subject: str, *, since: int) -> EndedCounts:
    """The outcome of the ended grants of a person, an agent, or a provider, or of all. `since`: as `first_asked`."""
    which = _parameters(kind, subject, since=since)
    rows = await reader.fetch(
        "select t.result, t.reason, t.is_final, case when t.settled_at is null then 0 else 1 end as is_settled,"  # noqa: S608
        f" case when {_HELD} then 1 else 0 end as is_held, count(*) as n from revocation_receipts t"
        f" where t.tenant = :tenant and {_WHOSE[kind]} group by 1, 2, 3, 4, 5",
        which,
    )
    found = Counter[str]()
    for row in rows:
        found[_sort(row)] += integer(row, "n")
    untried = await reader.fetch(
        "select case when t.next_at is null then 1 else 0 end as is_held, count(*) as n"  # noqa: S608
        f" from upstream_revocations t where t.tenant = :tenant and t.done_at is null and {_WHOSE[kind]}"
        " and not exists (select 1 from revocation_receipts r"
        " where r.tenant = t.tenant and r.connection_id = t.connection_id) group by 1",
        which,
    )
    for row in untried:
        found["held" if integer(row, "is_held") else "waiting"] += integer(row, "n")
    return EndedCounts(**found)


def _sort(row: Row) -> str:
    result, reason, is_final = text(row, "result"), text(row, "reason"), integer(row, "is_final") == 1
    if result == ReceiptResult.VERIFIED_DEAD:
        return "verified_dead"
    if integer(row, "is_settled"):
        return "settled"
    if reason == NO_PROBE:
        return "unverified"
    if result == ReceiptResult.STILL_ALIVE:
        return "still_alive"
    if integer(row, "is_held"):
        return "held"
    return "by_hand" if is_final else "retried"


async def start(transaction: Transaction, kind: Kind, subject: str, *, by: str, now: int, via: str = "") -> Panic:
    """Record the request, so that it is carried out even if this process dies. It includes unfinished requests for the
    same. `via`: the Admin API's client, if it came from there."""
    since = await first_asked(transaction, kind, subject, now=now, only_open=True)
    panic = Panic(new_id(), kind, subject, by, now, since)
    await transaction.execute(
        "insert into panics (tenant, id, kind, subject, requested_by, requested_at)"
        " values (:tenant, :id, :kind, :subject, :by, :now)",
        {"tenant": TENANT, "id": panic.id, "kind": kind, "subject": subject, "by": by, "now": now},
    )
    about = Event(
        "vault.panic",
        user_id=subject if kind == "user" else None,
        client_id=subject if kind == "client" else None,
        details={"kind": kind, "subject": subject, "by": by, **({"via": via} if via else {})},
    )
    await append(transaction, about, now=now)
    return panic


async def first_asked(reader: Reader, kind: Kind, subject: str, *, now: int, only_open: bool = False) -> int:
    """When this was first requested, finished or not (or `only_open`); `now` if it never was."""
    (row,) = await reader.fetch(
        "select min(requested_at) as first from panics where tenant = :tenant and kind = :kind and subject = :subject"
        " and (done_at is null or :closed = 1)",
        {"tenant": TENANT, "kind": kind, "subject": subject, "closed": int(not only_open)},
    )
    return integer_or_none(row, "first") or now


async def find_client(reader: Reader, named: str) -> str | None:
    """The ID of an agent that a request was about, by ID or name, even if it was removed since; the newest if there are
    several."""
    row = await reader.fetch_one(
        "select p.subject from panics p left join clients c on c.tenant = p.tenant and c.id = p.subject"
        " where p.tenant = :tenant and p.kind = :client and (p.subject = :named or c.name = :named)"
        " order by p.requested_at desc limit 1",
        {"tenant": TENANT, "client": "client", "named": named},
    )
    return None if row is None else text(row, "subject")


async def find_open(reader: Reader, kind: Kind, subject: str) -> Panic | None:
    """The newest unfinished request for the same; it includes the earlier ones."""
    found = [one for one in await list_open(reader) if (one.kind, one.subject) == (kind, subject)]
    return replace(found[-1], since=found[0].requested_at) if found else None


async def is_access_left(reader: Reader, panic: Panic) -> bool:
    """Whether there is access that began after the request, which carrying it out left."""
    if await reach(reader, panic.kind, panic.subject, since=panic.since):
        return True
    match panic.kind:
        case "client":
            return await clients.get_client(reader, panic.subject) is not None
        case "all":
            return bool(await _people_with_access(reader, before=LAST, after=""))
        case "user" | "provider":
            return False


async def was_requested(reader: Reader, kind: Kind, subject: str) -> bool:
    """Whether there was a request for this, finished or not. `subject`: an ID, or a provider's name."""
    row = await reader.fetch_one(
        "select id from panics where tenant = :tenant and kind = :kind and subject = :subject limit 1",
        {"tenant": TENANT, "kind": kind, "subject": subject},
    )
    return row is not None


async def list_open(reader: Reader) -> tuple[Panic, ...]:
    """Unfinished requests, oldest first."""
    rows = await reader.fetch(
        "select id, kind, subject, requested_by, requested_at, done_at from panics"
        " where tenant = :tenant and done_at is null order by requested_at, id",
        {"tenant": TENANT},
    )
    return tuple(map(_panic, rows))


def _panic(row: Row) -> Panic:
    return Panic(
        id=text(row, "id"),
        kind=_KINDS[text(row, "kind")],
        subject=text(row, "subject"),
        requested_by=text(row, "requested_by"),
        requested_at=integer(row, "requested_at"),
        since=integer(row, "requested_at"),
        done_at=integer_or_none(row, "done_at"),
    )


async def go_on_all(vault: Vault) -> int:
    """Continue every unfinished request; returns how many accounts were disconnected."""
    return sum([await go_on(vault, panic) for panic in await list_open(vault.database)])


async def go_on(vault: Vault, panic: Panic, *, tell: Tell = tell_nobody) -> int:
    """End the access of agents, then every account that was connected before; returns how many accounts."""
    await _end_access(vault, panic)
    ended, left = 0, sum((await reach(vault.database, panic.kind, panic.subject, since=panic.since)).values())
    after = ""
    while batch := await _next_accounts(vault.database, panic, after=after):
        after, _ = batch[-1]
        for connection_id, user_id in batch:
            ended += await _disconnect(vault, panic, connection_id, user_id)
            tell("disconnect accounts", ended, max(left, ended))
    async with vault.database.transaction() as transaction:
        await transaction.execute(
            "update panics set done_at = :now where tenant = :tenant and kind = :kind and subject = :subject"
            " and requested_at >= :since and requested_at <= :requested_at and done_at is null",
            {
                "tenant": TENANT,
                "kind": panic.kind,
                "subject": panic.subject,
                "since": panic.since,
                "requested_at": panic.requested_at,
                "now": vault.database.now(),
            },
        )
    return ended


async def finish(
    vault: Vault,
    unfinished: Panic,
    *,
    by: str,
    via: str = "",
    tell: Tell = tell_nobody,
    on_more: Callable[[], None] = lambda: None,
) -> int:
    """Continue an earlier request, then end what began after it, in a request of its own; returns how many accounts.

    `by` and `via` are of the caller, who asked again. Calls `on_more` if there is anything that began later.
    """
    ended = await go_on(vault, unfinished, tell=tell)
    if not await is_access_left(vault.database, unfinished):
        return ended
    on_more()
    now = vault.database.now()
    async with vault.database.transaction() as transaction:
        request = await start(transaction, unfinished.kind, unfinished.subject, by=by, via=via, now=now)
    return ended + await go_on(vault, replace(request, since=unfinished.since), tell=tell)


async def _next_accounts(reader: Reader, panic: Panic, *, after: str) -> tuple[tuple[str, str], ...]:
    rows = await reader.fetch(
        f"select t.connection_id, t.user_id from {_LIVE} where {_WHOSE[panic.kind]} and t.created_at <= :before"  # noqa: S608
        " and t.connection_id > :after order by t.connection_id limit :limit",
        {
            **_parameters(panic.kind, panic.subject, since=panic.since),
            "before": panic.requested_at,
            "after": after,
            "limit": BATCH,
        },
    )
    return tuple((text(row, "connection_id"), text(row, "user_id")) for row in rows)


async def _disconnect(vault: Vault, panic: Panic, connection_id: str, user_id: str) -> int:
    """Disconnect one account, unless another process just did."""
    try:
        async with vault.database.transaction() as transaction:
            found = await connections.get_connection(transaction, connection_id, user_id=user_id)
            if found is None:
                return 0
            await connections.disconnect(
                transaction, vault.keys, found, now=vault.database.now(), by=panic.requested_by
            )
    except TransitionRefused:
        return 0
    return 1


async def _end_access(vault: Vault, panic: Panic) -> None:
    """End the agents' grants and the sessions first, so that nothing new starts."""
    database, now = vault.database, vault.database.now()
    match panic.kind:
        case "user":
            async with database.transaction() as transaction:
                await users.end_user_access(transaction, panic.subject, reason="panic", now=now)
        case "client":
            async with database.transaction() as transaction:
                client = await clients.get_client(transaction, panic.subject)
                if client is not None and client.created_at <= panic.requested_at:
                    ended = await clients.remove_client(transaction, client.id, now=now)
                    if ended is not None:
                        details = {"agent": client.name, "grants": len(ended), "by": panic.requested_by}
                        event = Event("client.removed", client_id=client.id, details=details)
                        await append(transaction, event, now=now)
        case "all":
            after = ""
            while people := await _people_with_access(database, before=panic.requested_at, after=after):
                after = people[-1]
                for user_id in people:
                    async with database.transaction() as transaction:
                        await users.end_user_access(transaction, user_id, reason="panic", now=now)
        case "provider":
            pass


async def _people_with_access(reader: Reader, *, before: int, after: str) -> tuple[str, ...]:
    rows = await reader.fetch(
        "select g.user_id from grants g where g.tenant = :tenant and g.revoked_at is null and g.created_at <= :before"
        " and g.user_id > :after union select s.user_id from sessions s"
        " where s.tenant = :tenant and s.ended_at is null and s.created_at <= :before and s.user_id > :after"
        " order by user_id limit :limit",
        {"tenant": TENANT, "before": before, "after": after, "limit": BATCH},
    )
    return tuple(text(row, "user_id") for row in rows)
