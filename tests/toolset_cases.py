"""What each declared tool is tried with: arguments, the simulator's endpoint behind it, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from providers.simulator.running import Simulator

Prepare = Callable[[Simulator], Mapping[str, object]]


@dataclass(frozen=True)
class Case:
    """`provider` is connected with `scopes` (default: those of the tool). `says` stands in the readable answer."""

    provider: str
    endpoint: str
    arguments: Mapping[str, object]
    says: str
    has: Mapping[str, object] = field(default_factory=dict[str, object])  # in the structured answer, or its first item
    prepare: Prepare | None = None  # further arguments, made of what the simulator has


def _first_message(simulator: Simulator) -> Mapping[str, object]:
    return {"ts": simulator.slack_message("C0SBGENERAL")}


def _first_thread(simulator: Simulator) -> Mapping[str, object]:
    return {"thread_ts": simulator.slack_message("C0SBGENERAL")}


SLACK: Mapping[str, Case] = {
    "slack_reply": Case(
        "slack",
        "slack.api.chat.postMessage",
        {"channel": "C0SBGENERAL", "text": "seen"},
        "Answered in C0SBGENERAL",
        {"channel": "C0SBGENERAL"},
        _first_thread,
    ),
    "slack_thread": Case(
        "slack",
        "slack.api.conversations.replies",
        {"channel": "C0SBGENERAL"},
        "written by other people",
        {"text": "Welcome to the sandbox workspace. Nothing here is real."},
        _first_message,
    ),
    "slack_search": Case(
        "slack",
        "slack.api.search.messages",
        {"query": "worker", "limit": 1},
        "There is more",
        {"channel": "incidents", "channel_id": "C0SBINCIDEN", "user": "alice"},
    ),
    "slack_users": Case(
        "slack", "slack.api.users.list", {"limit": 2}, "There is more", {"id": "U0SBALICE01", "name": "alice"}
    ),
    "slack_direct_message": Case(
        "slack", "slack.api.chat.postMessage", {"user": "U0SBBOB0001", "text": "Lunch at one?"}, "Written in D0SB"
    ),
    "slack_react": Case(
        "slack",
        "slack.api.reactions.add",
        {"channel": "C0SBGENERAL", "emoji": "thumbsup"},
        "Reacted.",
        {"ok": True},
        _first_message,
    ),
}
CASES: Mapping[str, Case] = {**SLACK}
