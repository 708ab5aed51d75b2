"""A busy person's vault: ten agents, eight accounts, problems, approvals, and days of activity.

It is for screenshots and for tests of pages with much content. Names and times are made up and the same in each run.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from server.runtime.kept_answers import Read
from tests.support.rooms.portal_room import Room
from vault import delegations, grants
from vault.approvals import approvals, standing_approvals
from vault.approvals.approvals import Approval, ToolCall
from vault.approvals.standing_approvals import Binding
from vault.audit import audit
from vault.exchange.approval_rules import WRITES
from vault.notices import channels
from vault.records import DAY, Client, ClientKind, Connection, Event, Principal, User
from vault.sign_in import passkeys

GOOGLE: Final = "https://www.googleapis.com/auth/"
PROVIDERS: Final = ("github", "notion", "linear", "dropbox", "microsoft", "hubspot")  # in addition to the simulator's
AGENTS: Final = (
    ("Cursor", ClientKind.DYNAMIC),
    ("Claude Code", ClientKind.METADATA),
    ("Claude", ClientKind.METADATA),
    ("ChatGPT", ClientKind.MANUAL),
    ("VS Code", ClientKind.DYNAMIC),
    ("Weekly report worker", ClientKind.MANUAL),
    ("Zed", ClientKind.DYNAMIC),
    ("n8n on the office server", ClientKind.MANUAL),
    ("goose", ClientKind.LOCAL),
    ("Support triage (LangGraph)", ClientKind.MANUAL),
)
ACCOUNTS: Final = (
    ("slack", "alice (Acme)", {"chat:write", "channels:read", "channels:history", "search:read", "users:read"}),
    (
        "google",
        "alice@example.com",
        {
            f"{GOOGLE}calendar.events",
            f"{GOOGLE}calendar.events.readonly",
            f"{GOOGLE}gmail.readonly",
            f"{GOOGLE}drive.readonly",
        },
    ),
    ("google", "alice.private@example.net", {f"{GOOGLE}calendar.events.readonly", f"{GOOGLE}gmail.readonly"}),
    ("github", "alice-example", set[str]()),
    ("notion", "Acme handbook", set[str]()),
    ("linear", "Alice Example", set[str]()),
    ("dropbox", "alice@example.com", set[str]()),
    ("microsoft", "alice@corp.example", set[str]()),
)


CALLS: Final = {  # by provider: tool, scopes of its token, how they were enforced, whether items are counted
    "slack": ("slack_post", ["chat:write"], "enforced", False),
    "google": ("calendar_list", [f"{GOOGLE}calendar.events.readonly"], "upstream", True),
    "github": ("github_issue_search", ["issues:read", "pull_requests:read"], "enforced", True),
    "notion": ("notion_search", ["read"], "enforced", True),
    "linear": ("linear_search", ["read"], "enforced", True),
    "dropbox": ("dropbox_search", ["files.metadata.read"], "enforced", True),
    "microsoft": ("outlook_search", ["Mail.Read"], "enforced", True),
}
CHANNELS: Final = {"C0LAUNCH24": "launch", "C0RELEASES": "releases"}  # of the Slack account
POST: Final = {
    "channel": "C0LAUNCH24",
    "text": "The release is out.\n\n• Approvals read as sentences\n• They reach your phone\n\nThanks, everybody!",
}
EVENT: Final = {
    "calendar_id": "primary",
    "summary": "Launch review",
    "start": "2026-12-01T10:00:00+01:00",
    "end": "2026-12-01T10:45:00+01:00",
    "location": "Room 4",
    "attendees": ["bob@example.com", "carol@example.com"],
}


@dataclass(frozen=True, slots=True)
class Showcase:
    """What the vault was filled with."""

    user: User
    agents: tuple[Client, ...]
    accounts: tuple[Connection, ...]
    questions: tuple[Approval, ...] = ()


def provider_settings() -> dict[str, object]:
    """Settings that make further services look set up; none of them is called."""
    return {name: {"client_id": f"showcase-{name}", "client_secret": "not-a-secret"} for name in PROVIDERS}


async def furnish(
    room: Room, user: User, *, agents: int = 10, accounts: int = 8, events: int = 260, questions: int = 2
) -> Showcase:
    """Fill the vault of one person. More than ten agents or eight accounts get numbered names."""
    deployment, now = room.deployment, room.deployment.now()
    made_accounts = tuple([await _account(room, user, number) for number in range(accounts)])
    made_agents = tuple([await _agent(room, user, number, accounts=made_accounts) for number in range(agents)])
    lucky = random.Random(7)
    recorded = [_event(lucky, user, made_agents, made_accounts) for _ in range(events)]
    apart = max(37, 10 * DAY // max(1, events))  # seconds from one event to the next
    together = max(1, min(250, events // 60))  # stored at once
    for start in range(0, len(recorded), together):
        part = recorded[start : start + together]
        async with deployment.transaction() as transaction:
            await audit.append(transaction, *part, now=now - (len(recorded) - start) * apart + 3 * apart // 4)
    async with deployment.transaction() as transaction:
        for account, change in ((3, "state = 'needs_reauth'"), (4, f"grant_expires_at = {now + 3 * 86400}")):
            if account < len(made_accounts):
                await transaction.execute(
                    f"update connections set {change} where id = :id",
                    {"id": made_accounts[account].id},
                )
    await _know_channels(room, made_accounts[0])
    calls = (ToolCall("slack_post", lambda: POST), ToolCall("calendar_create", lambda: EVENT))
    asked = [
        await ask(room, user, made_agents[number], made_accounts[number], call)
        for number, call in enumerate(calls[:questions])
    ]
    return Showcase(user, made_agents, made_accounts, tuple(asked))


async def settle_in(room: Room, shown: Showcase) -> None:
    """Add what a person chose over time: notification channels, passkeys, and standing approvals."""
    deployment, user, now = room.deployment, shown.user, room.deployment.now()
    slack = shown.accounts[0]
    async with deployment.transaction() as transaction:
        for name, is_synced, number in (("iPhone", True, 1), ("Security key", False, 2)):
            credential = bytes([number] * 16)
            made_passkey = await passkeys.add(
                transaction,
                user.id,
                credential_id=credential,
                public_key=credential,
                sign_count=0,
                is_synced=is_synced,
                name=name,
                now=now - number * 20 * DAY,
            )
            await passkeys.note_use(transaction, made_passkey, sign_count=1, now=now - number * 7_500)
        for kind, label, failure in (
            ("push", "Chrome on Android", ""),
            ("email", "alice@example.com", ""),
            ("ntfy", "ntfy.example", "unreachable"),
        ):
            made = await channels.add_channel(
                transaction,
                deployment.keys,
                user_id=user.id,
                kind=kind,
                label=label,
                target="https://push.example.invalid/made-up",
                now=now - 9 * DAY,
            )
            await channels.confirm_channel(transaction, made.id, user_id=user.id, now=now - 9 * DAY)
            await channels.record_result(transaction, made.id, failure=failure, now=now - 7_000)
        for place, (channel, used) in enumerate((("C0LAUNCH24", 2), ("C0RELEASES", 0))):
            binding = Binding(user.id, shown.agents[place * 4].id, slack.id, "slack_post", {"channel": channel})
            await standing_approvals.give(
                transaction,
                deployment.keys,
                binding=binding,
                provider="slack",
                account=slack.label,
                names={"channel": f"#{CHANNELS[channel]}"},
                per_day=5,
                expires_at=(now // DAY + 7) * DAY,
                now=now,
            )
            for _ in range(used):
                await standing_approvals.spend(transaction, binding, now=now)


async def _know_channels(room: Room, slack: Connection) -> None:
    """Cache what Slack would answer about the channels, because this account can't call it."""

    def read(channel: str) -> Read:
        async def answer() -> Mapping[str, object]:
            return {"channel": {"name": CHANNELS[channel]}}

        return answer

    keys = {(slack.id, "web", "/conversations.info", "", (("channel", one),)): read(one) for one in CHANNELS}
    await room.deployment.lookups.ask(dict(keys), patience=5)


async def _account(room: Room, user: User, number: int) -> Connection:
    name, label, wanted = ACCOUNTS[number % len(ACCOUNTS)]
    again = number // len(ACCOUNTS)
    label = f"{label} {again + 1}" if again else label
    provider = room.deployment.catalog.provider(name)
    scopes = frozenset(wanted) or provider.scope.default or frozenset(list(provider.scopes)[:6])
    return await room.account(user, name, label=label, scopes=scopes, age=86400 * (40 - number % 30))


async def _agent(room: Room, user: User, number: int, *, accounts: tuple[Connection, ...]) -> Client:
    name, kind = AGENTS[number % len(AGENTS)]
    if number >= len(AGENTS):
        name = f"{name} {number // len(AGENTS) + 1}"
    now = room.deployment.now()
    client = await room.agent(kind, name=name, created_at=now - 86400 * 30, last_used_at=now - 2400 * (number + 1))
    async with room.deployment.transaction() as transaction:
        await grants.create_grant(
            transaction,
            user_id=user.id,
            client_id=client.id,
            scopes=frozenset({"tools", "connections", "offline_access"}),
            resource=f"{room.url}/mcp",
            redirect_uri=client.redirect_uris[0],
            now=now - 86400 * (number % 20 + 1),
        )
        for place, connection in enumerate(accounts):
            if (place + number) % 4 == 3 or (number and place * 3 % (number + 2) == 1):
                continue
            which = {"user_id": user.id, "client_id": client.id, "connection_id": connection.id}
            provider = room.deployment.catalog.provider(connection.provider)
            reads = connection.scopes & provider.reading_scopes
            scopes = reads if reads and (place + number) % 3 == 1 else connection.scopes - provider.always_granted
            expires_at = now + 86400 * 12 if (place + number) % 5 == 2 else None
            await delegations.allow(transaction, **which, scopes=scopes, now=now, expires_at=expires_at)
            if (place + number) % 3 == 0:
                await delegations.set_ask(transaction, **which, ask=frozenset({WRITES}), now=now)
    return client


def _event(lucky: random.Random, user: User, agents: tuple[Client, ...], accounts: tuple[Connection, ...]) -> Event:
    (agent,) = lucky.choices(agents, [len(agents) / (place + 1) for place in range(len(agents))])  # a few do most
    (account,) = lucky.choices(accounts, [3 if place < 3 else 1 for place in range(len(accounts))])
    kind, outcome = lucky.choice(
        (("tool.called", "ok"),) * 6
        + (("token.exchanged", "ok"), ("exchange.refused", "refused"), ("token.refreshed", "ok"))
    )
    details: dict[str, object] = {"account": account.label}
    if kind == "tool.called":
        tool, scopes, narrowing, counted = CALLS[account.provider]
        details |= {"tool": tool, "scopes": scopes, "narrowing": narrowing}
        details |= {"items": lucky.randrange(12)} if counted else {}
    if kind == "exchange.refused":
        details |= {"code": lucky.choice(("delegation_required", "approval_required", "rate_limited"))}
    return Event(
        kind=kind,
        outcome=outcome,
        user_id=user.id,
        client_id=agent.id,
        connection_id=None if kind == "token.refreshed" else account.id,
        details=details,
    )


async def ask(room: Room, user: User, agent: Client, account: Connection, call: ToolCall) -> Approval:
    """Add an agent's call that waits for the person's approval."""
    principal = Principal(user.id, agent.id, "showcase", frozenset({"tools"}), f"{room.url}/mcp")
    async with room.deployment.transaction() as transaction:
        asked, _ = await approvals.ask(
            transaction,
            room.deployment.keys,
            call=call,
            principal=principal,
            connection_id=account.id,
            provider=account.provider,
            account=account.account,
            label=account.label,
            scopes=account.scopes,
            now=room.deployment.now() - 90,
        )
    return asked
