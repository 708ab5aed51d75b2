"""A person's choices about notices, and the channels that reach them.

A channel's target (a mail address, a URL that may contain a token, a browser's push subscription) is sealed under the
subkey `notices`; `label` is the part that pages show.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Final

from vault.classes.immutable import immutable
from vault.envelope import Context, open_sealed, seal
from vault.keys.key_ring import KeyRing
from vault.records import TENANT, format_scope, new_id, parse_scope
from vault.storage.database import Reader, Row, Transaction, binary, integer, integer_or_none, text, text_or_none

MOST_CHANNELS: Final = 8  # of one person
KINDS: Final = ("approval", "access", "reconnect", "expiring", "agent")  # of notices
HOWS: Final = ("at_once", "daily", "off")
CHANNEL_KINDS: Final = ("email", "ntfy", "slack", "webhook", "service")  # kinds for which a person enters an address
ENDPOINT: Final = "endpoint"  # of the operator's, for events of everyone: `vault.notices.endpoints`
PUSH: Final = "push"  # a browser, which creates its own address
GONE: Final = "gone"  # failure: the target is gone, and no message will arrive anymore
DISABLED: Final = "disabled"  # failure: an admin disabled the endpoint
OFF: Final = frozenset({GONE, DISABLED})
DEFAULT_HOW: Final[Mapping[str, str]] = {
    "approval": "at_once",
    "access": "at_once",
    "reconnect": "at_once",
    "expiring": "daily",
    "agent": "at_once",
}
_KEY: Final = "notices"
_CHANNEL = """
    select id, user_id, kind, label, sealed, created_at, confirmed_at, sent_at, failed_at, failure, events
    from notice_channels
    where tenant = :tenant
"""
_GET: Final = f"{_CHANNEL} and id = :id"
_OF_USER: Final = f"{_CHANNEL} and user_id = :user_id order by created_at, id"
_DELETE_ALL: Final = tuple(
    f"delete from {table} where tenant = :tenant and user_id = :user_id"  # noqa: S608 -- names of tables
    for table in ("notices", "notice_channels", "notice_settings")
)


@immutable
class NoticeSettings:
    """When and how a person wants notices. Times of day are minutes after midnight in `zone`, an IANA name."""

    zone: str = "UTC"
    language: str = ""  # empty: English
    quiet: tuple[int, int] | None = None  # from, until; may span midnight
    digest_at: int = 8 * 60
    kinds: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_HOW))

    def how(self, kind: str) -> str:
        """`at_once`, `daily` or `off`."""
        return self.kinds.get(kind, DEFAULT_HOW[kind])


@immutable
class NoticeChannel:
    """A way to reach a person. `target` is a mail address, a URL or a subscription. Unconfirmed channels get
    nothing."""

    id: str
    user_id: str
    kind: str  # one of CHANNEL_KINDS, PUSH, or ENDPOINT
    label: str
    target: str = field(repr=False)
    created_at: int
    confirmed_at: int | None = None
    sent_at: int | None = None
    failed_at: int | None = None
    failure: str = ""  # why the last message didn't arrive; empty if it did
    events: frozenset[str] = frozenset()  # for an endpoint: the event types that it wants

    @property
    def gets_notices(self) -> bool:
        return self.confirmed_at is not None and self.failure not in OFF


async def get_settings(reader: Reader, user_id: str) -> NoticeSettings:
    """The person's choices, or the defaults."""
    row = await reader.fetch_one(
        "select zone, language, quiet_from, quiet_until, digest_at, kinds from notice_settings"
        " where tenant = :tenant and user_id = :user_id",
        {"tenant": TENANT, "user_id": user_id},
    )
    if row is None:
        return NoticeSettings()
    begins, ends = integer_or_none(row, "quiet_from"), integer_or_none(row, "quiet_until")
    return NoticeSettings(
        zone=text(row, "zone"),
        language=text(row, "language"),
        quiet=None if begins is None or ends is None else (begins, ends),
        digest_at=integer(row, "digest_at"),
        kinds=json.loads(text(row, "kinds")),
    )


async def save_settings(transaction: Transaction, user_id: str, settings: NoticeSettings) -> None:
    """Store the person's choices."""
    begins, ends = settings.quiet or (None, None)
    await transaction.execute(
        "insert into notice_settings (tenant, user_id, zone, language, quiet_from, quiet_until, digest_at, kinds)"
        " values (:tenant, :user_id, :zone, :language, :quiet_from, :quiet_until, :digest_at, :kinds)"
        " on conflict (tenant, user_id) do update set zone = excluded.zone, language = excluded.language,"
        " quiet_from = excluded.quiet_from, quiet_until = excluded.quiet_until, digest_at = excluded.digest_at,"
        " kinds = excluded.kinds",
        {
            "tenant": TENANT,
            "user_id": user_id,
            "zone": settings.zone,
            "language": settings.language,
            "quiet_from": begins,
            "quiet_until": ends,
            "digest_at": settings.digest_at,
            "kinds": json.dumps(dict(settings.kinds), separators=(",", ":")),
        },
    )


async def add_channel(
    transaction: Transaction,
    ring: KeyRing,
    *,
    user_id: str,
    kind: str,
    label: str,
    target: str,
    now: int,
    events: frozenset[str] = frozenset(),
) -> NoticeChannel:
    """Create a channel; one for a mail address still has to be confirmed."""
    channel_id = new_id(12)
    confirmed_at = None if kind == "email" else now
    sealed = seal(target.encode(), key=ring.subkey(_KEY), key_id=_KEY, context=_context(channel_id))
    await transaction.execute(
        "insert into notice_channels (tenant, id, user_id, kind, label, sealed, created_at, confirmed_at,"
        " events) values (:tenant, :id, :user_id, :kind, :label, :sealed, :now, :confirmed_at, :events)",
        {
            "tenant": TENANT,
            "id": channel_id,
            "user_id": user_id,
            "kind": kind,
            "label": label,
            "sealed": sealed,
            "now": now,
            "confirmed_at": confirmed_at,
            "events": format_scope(events) or None,
        },
    )
    return NoticeChannel(channel_id, user_id, kind, label, target, now, confirmed_at, events=events)


async def list_channels(reader: Reader, ring: KeyRing, user_id: str) -> tuple[NoticeChannel, ...]:
    """The person's channels, oldest first."""
    rows = await reader.fetch(_OF_USER, {"tenant": TENANT, "user_id": user_id})
    return tuple(_channel(row, ring) for row in rows)


async def get_channel(reader: Reader, ring: KeyRing, channel_id: str) -> NoticeChannel | None:
    """One channel of anyone."""
    row = await reader.fetch_one(_GET, {"tenant": TENANT, "id": channel_id})
    return None if row is None else _channel(row, ring)


async def confirm_channel(transaction: Transaction, channel_id: str, *, user_id: str, now: int) -> bool:
    """Record that the channel reaches the person; False if it is gone or someone else's."""
    return (
        await transaction.execute(
            "update notice_channels set confirmed_at = coalesce(confirmed_at, :now)"
            " where tenant = :tenant and id = :id and user_id = :user_id",
            {"tenant": TENANT, "id": channel_id, "user_id": user_id, "now": now},
        )
        > 0
    )


async def remove_channel(transaction: Transaction, channel_id: str, *, user_id: str) -> bool:
    """Remove a channel and its waiting notices; False if it is gone or someone else's."""
    which = {"tenant": TENANT, "id": channel_id, "user_id": user_id}
    removed = await transaction.execute(
        "delete from notice_channels where tenant = :tenant and id = :id and user_id = :user_id", which
    )
    if removed:
        await transaction.execute("delete from notices where tenant = :tenant and channel_id = :id", which)
    return removed > 0


async def record_result(transaction: Transaction, channel_id: str, *, failure: str, now: int) -> None:
    """Record the result of a message; an empty `failure` means accepted. A disabled channel stays disabled."""
    column = "sent_at = :now, failed_at = null" if not failure else "failed_at = :now"
    await transaction.execute(
        f"update notice_channels set {column}, held_until = null,"  # noqa: S608 -- one of two
        " failure = case when failure = :disabled then failure else cast(:failure as text) end"
        " where tenant = :tenant and id = :id",
        {"tenant": TENANT, "id": channel_id, "failure": failure, "disabled": DISABLED, "now": now},
    )


async def change_target(
    transaction: Transaction, ring: KeyRing, channel_id: str, change: Callable[[str], str]
) -> NoticeChannel | None:
    """Replace the target with one made from the previous one; None if the channel is gone. Locks the channel, so
    concurrent changes wait."""
    which = {"tenant": TENANT, "id": channel_id}
    await transaction.execute("update notice_channels set kind = kind where tenant = :tenant and id = :id", which)
    row = await transaction.fetch_one(_GET, which)
    if row is None:
        return None
    found = _channel(row, ring)
    target = change(found.target)
    sealed = seal(target.encode(), key=ring.subkey(_KEY), key_id=_KEY, context=_context(channel_id))
    await transaction.execute(
        "update notice_channels set sealed = :sealed where tenant = :tenant and id = :id", {**which, "sealed": sealed}
    )
    return replace(found, target=target)


async def set_failure(transaction: Transaction, channel_id: str, failure: str) -> bool:
    """Record why nothing is sent, or that sending resumes; False if nothing changes, or the channel is gone."""
    return (
        await transaction.execute(
            "update notice_channels set failure = :failure"
            " where tenant = :tenant and id = :id and coalesce(failure, :nothing) <> :failure",
            {"tenant": TENANT, "id": channel_id, "failure": failure, "nothing": ""},
        )
        > 0
    )


async def revive(transaction: Transaction, channel_id: str) -> bool:
    """Resume sending to a channel that failed for good; False for a disabled or missing one."""
    return (
        await transaction.execute(
            "update notice_channels set failure = :nothing"
            " where tenant = :tenant and id = :id and coalesce(failure, :nothing) <> :disabled",
            {"tenant": TENANT, "id": channel_id, "nothing": "", "disabled": DISABLED},
        )
        > 0
    )


async def forget_person(transaction: Transaction, user_id: str) -> None:
    """Delete everything here about a person."""
    for statement in _DELETE_ALL:
        await transaction.execute(statement, {"tenant": TENANT, "user_id": user_id})


def _context(channel_id: str) -> Context:
    return Context("notice_channel", TENANT, record_id=channel_id)


def _channel(row: Row, ring: KeyRing) -> NoticeChannel:
    channel_id = text(row, "id")
    target = open_sealed(binary(row, "sealed"), key=ring.subkey(_KEY), context=_context(channel_id))
    return NoticeChannel(
        id=channel_id,
        user_id=text(row, "user_id"),
        kind=text(row, "kind"),
        label=text(row, "label"),
        target=target.decode(),
        created_at=integer(row, "created_at"),
        confirmed_at=integer_or_none(row, "confirmed_at"),
        sent_at=integer_or_none(row, "sent_at"),
        failed_at=integer_or_none(row, "failed_at"),
        failure=text_or_none(row, "failure") or "",
        events=parse_scope(text_or_none(row, "events") or ""),
    )
