"""The sandbox's Slack workspace: people, channels, messages. Keeps what is posted; independent of tokens and HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from providers.simulator.accounts import PEOPLE, Person

TEAM_ID = "T0SANDBOX01"
TEAM_NAME = "Sandbox"
APP_ID = "A0SANDBOX01"
BOT_USER = "U0SBBOT0001"
PEOPLE_BY_ID: dict[str, Person] = {person.slack_id: person for person in PEOPLE.values()}
ChannelKind = Literal["public_channel", "private_channel", "im"]
_PREFIX: dict[ChannelKind, str] = {"public_channel": "channels", "private_channel": "groups", "im": "im"}


@dataclass(slots=True)
class SimulatedMessage:
    ts: str
    user: str
    text: str
    thread_ts: str | None = None
    app_id: str | None = None
    reactions: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    edited: bool = False


@dataclass(slots=True)
class SimulatedChannel:
    id: str
    name: str
    kind: ChannelKind
    members: set[str]
    topic: str = ""
    archived: bool = False
    created: int = 0
    messages: list[SimulatedMessage] = field(default_factory=list[SimulatedMessage])

    @property
    def scope_prefix(self) -> str:
        """The first half of the scopes that guard this kind of conversation."""
        return _PREFIX[self.kind]


_EVERYONE = frozenset(person.slack_id for person in PEOPLE.values())
_ALICE, _BOB, _CAROL = (PEOPLE[name].slack_id for name in ("alice", "bob", "carol"))
_CHANNELS: tuple[tuple[str, str, ChannelKind, frozenset[str], str], ...] = (
    ("C0SBGENERAL", "general", "public_channel", _EVERYONE, "Company-wide announcements"),
    ("C0SBRANDOM1", "random", "public_channel", _EVERYONE, "Everything else"),
    ("C0SBDEPLOYS", "deploys", "public_channel", frozenset({_ALICE, _BOB}), "Releases and rollbacks"),
    ("C0SBDESIGN1", "design", "public_channel", frozenset({_CAROL}), "Drafts and reviews"),
    ("C0SBSUPPORT", "support", "public_channel", _EVERYONE, "Questions from customers"),
    ("C0SBARCHIVE", "old-project", "public_channel", _EVERYONE, "Finished long ago"),
    ("C0SBINCIDEN", "incidents", "private_channel", frozenset({_ALICE, _BOB}), "Post-mortems"),
    ("G0SBFOUNDER", "founders", "private_channel", frozenset({_CAROL}), "Private"),
    ("D0SBALICEBO", "", "im", frozenset({_ALICE, _BOB}), ""),
)
_HISTORY: tuple[tuple[str, int, str, str], ...] = (
    ("C0SBGENERAL", 86400 * 2, _CAROL, "Welcome to the sandbox workspace. Nothing here is real."),
    ("C0SBGENERAL", 7200, _ALICE, "The all-hands moves to Thursday."),
    ("C0SBGENERAL", 3600, _BOB, "Thanks, calendar updated."),
    ("C0SBRANDOM1", 5400, _BOB, "Coffee machine on the third floor is fixed."),
    ("C0SBDEPLOYS", 9000, _BOB, "Deploying api 4.17.0 to staging."),
    ("C0SBDEPLOYS", 8400, _BOB, "Staging is green, promoting to production."),
    ("C0SBDEPLOYS", 1800, _ALICE, "Rolled back the worker, see #incidents."),
    ("C0SBSUPPORT", 4000, _CAROL, "Ticket 1042: cannot export the report."),
    ("C0SBARCHIVE", 86400 * 400, _ALICE, "Closing this channel."),
    ("C0SBINCIDEN", 1700, _ALICE, "Worker out of memory after the last release."),
    ("D0SBALICEBO", 600, _BOB, "Lunch?"),
)


class Workspace:
    """All conversations, in the order in which lists show them."""

    def __init__(self, *, now: float) -> None:
        self._last_ts = 0.0
        self.channels: dict[str, SimulatedChannel] = {}
        for identifier, name, kind, members, topic in _CHANNELS:
            self.channels[identifier] = SimulatedChannel(
                identifier, name, kind, set(members), topic, name == "old-project", int(now) - 86400 * 500
            )
        for channel, age, user, text in sorted(_HISTORY, key=lambda line: -line[1]):
            self.channels[channel].messages.append(SimulatedMessage(self._timestamp(now - age), user, text))

    def visible_to(self, user: str) -> list[SimulatedChannel]:
        """Public channels, and the private conversations this user is in."""
        return [
            channel for channel in self.channels.values() if channel.kind == "public_channel" or user in channel.members
        ]

    def find(self, user: str, reference: str) -> SimulatedChannel | None:
        """A conversation by id, `#name` or name, if the user can see it; a user's id means the direct messages."""
        if reference in PEOPLE_BY_ID:
            return self.open_direct(user, reference)
        for channel in self.visible_to(user):
            if channel.id == reference or (channel.name and channel.name == reference.removeprefix("#")):
                return channel
        return None

    def open_direct(self, user: str, other: str) -> SimulatedChannel:
        """The direct messages of two users, begun if need be."""
        members = {user, other}
        for channel in self.channels.values():
            if channel.kind == "im" and channel.members == members:
                return channel
        identifier = f"D0SB{len(self.channels):07d}"
        self.channels[identifier] = SimulatedChannel(identifier, "", "im", members)
        return self.channels[identifier]

    def post(self, channel: SimulatedChannel, message: SimulatedMessage, *, now: float) -> SimulatedMessage:
        """Add a message and give it its `ts`, which is unique in the whole workspace."""
        message.ts = self._timestamp(now)
        channel.messages.append(message)
        return message

    def message(self, channel: SimulatedChannel, ts: str) -> SimulatedMessage | None:
        """The message with this timestamp."""
        return next((message for message in channel.messages if message.ts == ts), None)

    def _timestamp(self, now: float) -> str:
        self._last_ts = max(round(now, 6), round(self._last_ts + 0.0001, 6))
        return f"{self._last_ts:.6f}"
