"""The outbox: which event is due on which channel, at most once each.

`enter` follows the activity from where the last process stopped, in one transaction with the new place, so that each
event is entered once however many processes do it. A channel is held by one process at a time (`hold`). A notice is
taken out of the outbox before it is sent: if a process dies in between, the notice is lost rather than sent twice. Only
notices that were definitely not accepted are retried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from vault.audit.audit import event_of
from vault.classes.immutable import immutable
from vault.keys.key_ring import KeyRing
from vault.notices.channels import NoticeChannel, NoticeSettings, get_settings, list_channels
from vault.notices.endpoints import NOBODY, TYPE_OF_EVENT
from vault.records import DAY, HOUR, TENANT, Event
from vault.storage.database import SWEEP_BATCH, Database, Reader, Transaction, Value, integer, text

BACKOFF: Final = (30, 120, 600, HOUR)  # seconds to wait after each failure; then the notice is given up
KEPT: Final = 7 * DAY
LIFETIME: Final = 2 * DAY  # seconds after which a notice is no longer worth sending
APPROVAL_LIFETIME: Final = 600  # worth sending as long as the person can answer
HELD: Final = 90  # seconds; longer than sending takes
EXAMINED: Final = 5000  # events per transaction of `enter`
MOST_AT_ONCE: Final = 50  # notices in one message
MOST_TOLD: Final = 50  # members of a group who are notified about its account
_TOLD: Final = """
    select distinct user_id from memberships
    where tenant = :tenant and group_id = :group_id and (expires_at is null or expires_at > :now)
    order by user_id limit :limit
"""
ASKED: Final = "permission.requested"  # for people who can answer, not for the person who asked
CLIENT_ENDING: Final = "mcp_server.client_ending"  # for admins
TO_OTHERS: Final = frozenset({ASKED, CLIENT_ENDING})
KIND_OF_EVENT: Final[Mapping[str, str]] = {
    "approval.requested": "approval",
    ASKED: "access",
    "permission.allowed": "access",
    "permission.denied": "access",
    "permission.ended": "access",
    "permission.over": "access",
    "connection.needs_reauth": "reconnect",
    "connection.quarantined": "reconnect",
    "connection.doubted": "reconnect",
    "connection.expiring": "expiring",
    CLIENT_ENDING: "expiring",
    "consent.given": "agent",
}
_EVENTS: Final[Mapping[str, Value]] = {
    f"kind{number}": kind for number, kind in enumerate(sorted({*KIND_OF_EVENT, *TYPE_OF_EVENT}))
}
_NEW: Final = f"""
    select * from events where tenant = :tenant and sequence > :after and sequence <= :until
        and kind in ({", ".join(f":{name}" for name in _EVENTS)})
    order by sequence
"""  # noqa: S608 -- names of parameters
_A_CHANNEL: Final = "select id from notice_channels where tenant = :tenant limit 1"
_BEHIND: Final = """
    select h.sequence from event_heads h left join notice_feeds f on f.tenant = h.tenant
    where h.tenant = :tenant and (f.sequence is null or f.sequence < h.sequence) limit 1
"""
_SKIP: Final = """
    insert into notice_feeds (tenant, sequence)
    select h.tenant, h.sequence from event_heads h
    where h.tenant = :tenant and not exists (select 1 from notice_channels c where c.tenant = :tenant)
    on conflict (tenant) do update set sequence = excluded.sequence where notice_feeds.sequence < excluded.sequence
"""
_DUE: Final = """
    select channel_id from notices where tenant = :tenant and due_at <= :now
    group by channel_id order by min(due_at) limit :limit
"""
_HOLD: Final = """
    update notice_channels set held_until = :until
    where tenant = :tenant and id = :id and (held_until is null or held_until <= :now) returning id
"""
_WAITING: Final = """
    select sequence from notices where tenant = :tenant and channel_id = :id and due_at <= :now
    order by sequence limit :limit
"""
_TAKE: Final = """
    update notices set state = :sending, attempts = attempts + 1, due_at = :again_at
    where tenant = :tenant and channel_id = :id and sequence = :sequence and due_at <= :now
    returning sequence, kind, attempts, expires_at
"""
_RECORD: Final = """
    update notices set state = :state, due_at = :due_at, failure = :failure
    where tenant = :tenant and channel_id = :id and sequence = :sequence
"""
_PUT_BACK: Final = """
    update notices set state = :waiting, due_at = :due_at, attempts = attempts - 1
    where tenant = :tenant and channel_id = :id and sequence = :sequence
"""
_EVENT: Final = "select * from events where tenant = :tenant and sequence = :sequence"

Approvers = Callable[[Event], Awaitable[Sequence[str]]]  # the IDs of the people who can act on it
DueAt = Callable[[NoticeSettings, str, int], int]  # (settings, `at_once` or `daily`, now) -> when to send


@immutable
class Notice:
    """One event being sent on one channel. `attempts` includes this one."""

    channel_id: str
    kind: str
    attempts: int
    expires_at: int
    event: Event


async def nobody(_event: Event) -> Sequence[str]:
    """For a vault that notifies people only of their own events."""
    return ()


async def enter(database: Database, ring: KeyRing, *, due_at: DueAt, approvers: Approvers = nobody) -> int:
    """Enter the events since the last call; returns how many notices, 0 if another process was faster."""
    head = await database.fetch_one("select sequence from event_heads where tenant = :tenant", {"tenant": TENANT})
    last = 0 if head is None else integer(head, "sequence")
    feed = await database.fetch_one("select sequence from notice_feeds where tenant = :tenant", {"tenant": TENANT})
    if feed is None:
        await begin(database)
        return 0
    after = integer(feed, "sequence")
    until = min(last, after + EXAMINED)
    if until <= after:
        return 0
    span: dict[str, Value] = {"tenant": TENANT, "after": after, "until": until}
    events = [event_of(row) for row in await database.fetch(_NEW, {**span, **_EVENTS})]
    rows = [
        *await _rows(database, ring, events, due_at=due_at, approvers=approvers),
        *await _for_endpoints(database, ring, events),
    ]
    async with database.transaction() as transaction:
        is_first = await transaction.execute(
            "update notice_feeds set sequence = :until where tenant = :tenant and sequence = :after", span
        )
        if not is_first:
            return 0
        await transaction.execute_many(
            "insert into notices (tenant, channel_id, sequence, user_id, kind, state, attempts, created_at, expires_at,"
            " due_at) values (:tenant, :channel_id, :sequence, :user_id, :kind, :state, 0, :now, :expires_at, :due_at)"
            " on conflict (tenant, channel_id, sequence) do nothing",
            rows,
        )
    return len(rows)


async def skip_if_nobody_listens(database: Database) -> bool:
    """Whether no one has a channel; events up to now are then never sent."""
    if await database.fetch_one(_A_CHANNEL, {"tenant": TENANT}) is not None:
        return False
    if await database.fetch_one(_BEHIND, {"tenant": TENANT}) is not None:
        async with database.transaction() as transaction:
            await transaction.execute(_SKIP, {"tenant": TENANT})
    return True


async def begin(database: Database) -> None:
    """Follow the activity from now on, if no process does yet: earlier events are too old to report."""
    async with database.transaction() as transaction:
        await transaction.execute(
            "insert into notice_feeds (tenant, sequence)"
            " select :tenant, coalesce(max(h.sequence), 0) from event_heads h where h.tenant = :tenant"
            " on conflict (tenant) do nothing",
            {"tenant": TENANT},
        )


async def _rows(
    reader: Database, ring: KeyRing, events: Sequence[Event], *, due_at: DueAt, approvers: Approvers
) -> list[Mapping[str, Value]]:
    now, found = reader.now(), list[Mapping[str, Value]]()
    people: dict[str, tuple[NoticeSettings, list[NoticeChannel]]] = {}
    own = [one for one in events if one.user_id is not None and one.kind in KIND_OF_EVENT.keys() - TO_OTHERS]
    whom = {owner: await recipients(reader, owner) for owner in {str(one.user_id) for one in own}}
    told = [(one, whom[str(one.user_id)]) for one in own]
    told += [(one, await approvers(one)) for one in events if one.kind in TO_OTHERS]
    for event, user_id in [(one, person) for one, people_told in told for person in people_told[:MOST_TOLD]]:
        if user_id not in people:
            channels = [one for one in await list_channels(reader, ring, user_id) if one.gets_notices]
            settings = await get_settings(reader, user_id) if channels else NoticeSettings()
            people[user_id] = (settings, channels)
        settings, channels = people[user_id]
        kind = KIND_OF_EVENT[event.kind]
        how = settings.how(kind)
        lifetime = _lifetime(event, kind)
        if how == "off" or event.at + lifetime <= now:
            continue
        found += [
            {
                "tenant": TENANT,
                "channel_id": channel.id,
                "sequence": event.sequence,
                "user_id": user_id,
                "kind": kind,
                "state": "waiting",
                "now": now,
                "expires_at": event.at + lifetime,
                "due_at": due_at(settings, how, now),
            }
            for channel in channels
        ]
    return found


async def recipients(reader: Database, owner: str) -> Sequence[str]:
    """The person or, for a group's account, the members of the group, at most MOST_TOLD."""
    rows = await reader.fetch(_TOLD, {"tenant": TENANT, "group_id": owner, "now": reader.now(), "limit": MOST_TOLD})
    return [text(row, "user_id") for row in rows] or [owner]


async def _for_endpoints(reader: Database, ring: KeyRing, events: Sequence[Event]) -> list[Mapping[str, Value]]:
    """Events for the operator's endpoints, sent at once and separately."""
    told = [event for event in events if event.kind in TYPE_OF_EVENT]
    held = [one for one in await list_channels(reader, ring, NOBODY) if one.gets_notices] if told else []
    now = reader.now()
    return [
        {
            "tenant": TENANT,
            "channel_id": one.id,
            "sequence": event.sequence,
            "user_id": NOBODY,
            "kind": TYPE_OF_EVENT[event.kind],
            "state": "waiting",
            "now": now,
            "expires_at": now + KEPT,
            "due_at": now,
        }
        for event in told
        for one in held
        if TYPE_OF_EVENT[event.kind] in one.events
    ]


def _lifetime(event: Event, kind: str) -> int:
    """Seconds for which it is worth sending; for a question, as long as it can be answered."""
    until = event.details.get("until")
    if kind != "approval":
        return LIFETIME
    return until - event.at if isinstance(until, int) else APPROVAL_LIFETIME


async def list_due(reader: Reader, *, now: int) -> tuple[str, ...]:
    """The channels with due notices, longest waiting first; at most a batch, however many notices one has."""
    rows = await reader.fetch(_DUE, {"tenant": TENANT, "now": now, "limit": SWEEP_BATCH})
    return tuple(text(row, "channel_id") for row in rows)


async def hold(transaction: Transaction, channel_id: str, *, now: int) -> bool:
    """Become the only process that sends on this channel, for a while or until `record_result`."""
    which = {"tenant": TENANT, "id": channel_id, "now": now, "until": now + HELD}
    return await transaction.fetch_one(_HOLD, which) is not None


async def release(transaction: Transaction, channel_id: str) -> None:
    """Release the channel after sending nothing."""
    await transaction.execute(
        "update notice_channels set held_until = null where tenant = :tenant and id = :id",
        {"tenant": TENANT, "id": channel_id},
    )


async def take(
    transaction: Transaction, channel_id: str, *, now: int, again_at: int | None = None
) -> tuple[Notice, ...]:
    """Take a channel's due notices out of the outbox, oldest first. From now on only the caller sends them.

    `again_at`: what the caller doesn't settle by then is due again, so it may be sent twice but is never lost.
    """
    which: dict[str, Value] = {"tenant": TENANT, "id": channel_id, "now": now}
    taken: list[Notice] = []
    for waiting in await transaction.fetch(_WAITING, {**which, "limit": MOST_AT_ONCE}):
        one = {"tenant": TENANT, "id": channel_id, "sequence": integer(waiting, "sequence")}
        row = await transaction.fetch_one(_TAKE, {**one, "sending": "sending", "again_at": again_at, "now": now})
        found = None if row is None else await transaction.fetch_one(_EVENT, one)
        if row is not None and found is not None:  # only an old event was pruned
            attempts, expires_at = integer(row, "attempts"), integer(row, "expires_at")
            taken.append(Notice(channel_id, text(row, "kind"), attempts, expires_at, event_of(found)))
    return tuple(taken)


async def settle(transaction: Transaction, notices: Sequence[Notice], *, state: str, failure: str = "") -> None:
    """Record the end of notices: `sent`, `over` (nothing left to report), `unknown` or `failed`."""
    ended: Mapping[str, Value] = {"state": state, "due_at": None, "failure": failure or None}
    await transaction.execute_many(_RECORD, [{**_key(one), **ended} for one in notices])


async def delay(transaction: Transaction, notices: Sequence[Notice], *, until: int, failure: str) -> None:
    """Put back notices to be sent later, with the reason why they weren't accepted."""
    later: Mapping[str, Value] = {"state": "waiting", "due_at": until, "failure": failure or None}
    await transaction.execute_many(_RECORD, [{**_key(one), **later} for one in notices])


async def try_again(transaction: Transaction, notices: Sequence[Notice], *, now: int) -> None:
    """Requeue notices that were definitely not accepted; fail those that have been tried often enough or are about to
    expire."""
    rows: list[Mapping[str, Value]] = []
    for one in notices:
        later = now + BACKOFF[one.attempts - 1] if one.attempts <= len(BACKOFF) else None
        is_over = later is None or later >= one.expires_at
        state, due_at = ("failed", None) if is_over else ("waiting", later)
        rows.append({**_key(one), "state": state, "due_at": due_at, "failure": None})
    await transaction.execute_many(_RECORD, rows)


async def put_back(transaction: Transaction, notices: Sequence[Notice], *, due_at: int) -> None:
    """Put back notices that were taken but not sent, without counting an attempt."""
    await transaction.execute_many(
        _PUT_BACK, [{**_key(one), "waiting": "waiting", "due_at": due_at} for one in notices]
    )


def _key(notice: Notice) -> dict[str, Value]:
    return {"tenant": TENANT, "id": notice.channel_id, "sequence": notice.event.sequence}


async def sweep(transaction: Transaction, *, now: int) -> int:
    """Delete old notices that no one sends anymore, at most a batch; how many."""
    return await transaction.execute(
        "delete from notices where (tenant, channel_id, sequence) in (select tenant, channel_id, sequence from notices"
        " where tenant = :tenant and created_at <= :before and expires_at <= :now limit :batch)",
        {"tenant": TENANT, "before": now - KEPT, "now": now, "batch": SWEEP_BATCH},
    )
