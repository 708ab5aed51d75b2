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
_GARDEN = {"owner": "alice", "repo": "garden"}
_HUB = "families.github.api"
GITHUB: Mapping[str, Case] = {
    "github_issue_search": Case(
        "github",
        _HUB,
        {"query": "repo:alice/garden roses"},
        "#2",
        {"number": 2, "title": "Prune the roses", "author": "bob"},
    ),
    "github_issues": Case("github", _HUB, {**_GARDEN, "limit": 2}, "(open, by ", {"state": "open"}),
    "github_issue_read": Case("github", _HUB, {**_GARDEN, "number": 1}, "#1", {"title": "Water the tomatoes"}),
    "github_issue_comments": Case("github", _HUB, {**_GARDEN, "number": 4}, "Nothing was found."),
    "github_issue_create": Case("github", _HUB, {**_GARDEN, "title": "Mow the lawn", "text": "Soon."}, "Opened #", {}),
    "github_issue_comment": Case("github", _HUB, {**_GARDEN, "number": 1, "text": "Done."}, "Commented: https://"),
    "github_pulls": Case("github", _HUB, _GARDEN, "herbs into main", {"number": 101, "from_branch": "herbs"}),
    "github_pull_read": Case("github", _HUB, {**_GARDEN, "number": 101}, "+14 -3", {"text": "Thyme and sage."}),
    "github_pull_comment": Case("github", _HUB, {**_GARDEN, "number": 101, "text": "Nice."}, "Commented: https://"),
    "github_file_read": Case(
        "github", _HUB, {**_GARDEN, "file": "docs/beds.md"}, "Three beds", {"text": "Three beds.\n", "size": 12}
    ),
}


def _an_event(simulator: Simulator) -> Mapping[str, object]:
    return {"event_id": simulator.google_event("alice")}


_CALENDAR = "google.api.calendar"
GOOGLE: Mapping[str, Case] = {
    "calendar_calendars": Case("google", f"{_CALENDAR}.calendarList.list", {}, "written by other people", {}),
    "calendar_update": Case(
        "google",
        f"{_CALENDAR}.events.patch",
        {
            "calendar_id": "primary",
            "summary": "Moved",
            "start": "2026-12-01T09:00:00+01:00",
            "end": "2026-12-01T10:00:00+01:00",
        },
        "Changed Moved",
        {"title": "Moved", "start": "2026-12-01T09:00:00+01:00"},
        _an_event,
    ),
    "calendar_delete": Case(
        "google", f"{_CALENDAR}.events.delete", {"calendar_id": "primary"}, "Deleted.", {}, _an_event
    ),
}
FAMILIES: Mapping[str, tuple[str, ...]] = {"github": ("rest",)}  # provider (and mode) to the APIs of its file


def family_settings(simulator: Simulator) -> Mapping[str, Mapping[str, object]]:
    """Settings of every provider here that is neither Slack nor Google."""
    return {name: simulator.family_settings(name, apis=apis) for name, apis in FAMILIES.items()}


CASES: Mapping[str, Case] = {**SLACK, **GOOGLE, **GITHUB}
