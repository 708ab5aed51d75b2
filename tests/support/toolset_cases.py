"""The cases for each tool: arguments, the simulator's endpoint behind it, and the expected result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from providers.simulator.local_server import Simulator
from providers.simulator.state import drives, mailboxes
from tests.support.services import facebook, graph, jira, linear, notion, salesforce
from tests.support.simulator_apps import family_settings, google_event, slack_message

Prepare = Callable[[Simulator], Mapping[str, object]]


@dataclass(frozen=True)
class Case:
    """`provider` is connected with `scopes` (default: the tool's). `says` is part of the readable answer."""

    provider: str
    endpoint: str
    arguments: Mapping[str, object]
    says: str
    has: Mapping[str, object] = field(default_factory=dict[str, object])  # in the structured answer, or its first item
    prepare: Prepare | None = None  # further arguments, made from the simulator's data


def _first_message(simulator: Simulator) -> Mapping[str, object]:
    return {"ts": slack_message(simulator, "C0SBGENERAL")}


def _first_thread(simulator: Simulator) -> Mapping[str, object]:
    return {"thread_ts": slack_message(simulator, "C0SBGENERAL")}


_EMOJI = iter(range(1000))


def _first_message_and_a_new_emoji(simulator: Simulator) -> Mapping[str, object]:
    return {**_first_message(simulator), "emoji": f"thumbsup_{next(_EMOJI)}"}


SLACK: Mapping[str, Case] = {
    "slack_post": Case(
        "slack",
        "slack.api.chat.postMessage",
        {"channel": "#general", "text": "Hello"},
        "C0SBGENERAL",
        {"channel": "C0SBGENERAL"},
    ),
    "slack_channels": Case("slack", "slack.api.conversations.list", {}, "general"),
    "slack_history": Case("slack", "slack.api.conversations.history", {"channel": "C0SBGENERAL"}, "Welcome"),
    "slack_reply": Case(
        "slack",
        "slack.api.chat.postMessage",
        {"channel": "C0SBGENERAL", "text": "seen"},
        "Replied in C0SBGENERAL",
        {"channel": "C0SBGENERAL"},
        _first_thread,
    ),
    "slack_thread": Case(
        "slack",
        "slack.api.conversations.replies",
        {"channel": "C0SBGENERAL"},
        "written by other people",
        {"text": "Welcome to the sandbox workspace. Nothing here is real."},
        _first_thread,
    ),
    "slack_search": Case(
        "slack",
        "slack.api.search.messages",
        {"query": "worker", "limit": 1},
        "There are more",
        {"channel": "incidents", "channel_id": "C0SBINCIDEN", "user": "alice"},
    ),
    "slack_users": Case(
        "slack", "slack.api.users.list", {"limit": 2}, "There are more", {"id": "U0SBALICE01", "name": "alice"}
    ),
    "slack_direct_message": Case(
        "slack", "slack.api.chat.postMessage", {"user": "U0SBBOB0001", "text": "Lunch at one?"}, "Sent in D0SB"
    ),
    "slack_react": Case(
        "slack",
        "slack.api.reactions.add",
        {"channel": "C0SBGENERAL"},
        "Reacted.",
        {"ok": True},
        _first_message_and_a_new_emoji,
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
    "github_files": Case("github", _HUB, _GARDEN, "docs/beds.md (blob, 12 bytes)", {"path": "README.md"}),
    "github_file_read": Case(
        "github", _HUB, {**_GARDEN, "file": "docs/beds.md"}, "Three beds", {"text": "Three beds.\n", "size": 12}
    ),
}


def _an_event(simulator: Simulator) -> Mapping[str, object]:
    return {"event_id": google_event(simulator, "alice")}


_CALENDAR = "google.api.calendar"
_MAIL = {"to": ["bob@example.com"], "subject": "Grüße", "text": "Lunch at one?"}
GOOGLE: Mapping[str, Case] = {
    "calendar_list": Case("google", f"{_CALENDAR}.events.list", {"query": "dentist"}, "Dentist"),
    "calendar_create": Case(
        "google",
        f"{_CALENDAR}.events.insert",
        {"summary": "Tea", "start": "2026-12-01T09:00:00+01:00", "end": "2026-12-01T10:00:00+01:00"},
        'Created "Tea"',
        {"start": "2026-12-01T09:00:00+01:00"},
    ),
    "calendar_free": Case(
        "google",
        f"{_CALENDAR}.freebusy.query",
        {"time_min": "2027-12-01T09:00:00+01:00", "time_max": "2027-12-01T10:00:00+01:00"},
        "2027-12-01T09:00:00+01:00 to 2027-12-01T10:00:00+01:00 (60 minutes)",
        {"unreadable": [], "more": False},
    ),
    "gmail_search": Case("google", "google.api.gmail.messages.list", {"query": "from:bob lunch"}, "Lunch on Friday"),
    "gmail_read": Case(
        "google",
        "google.api.gmail.messages.get",
        {"message": mailboxes.WELCOME},
        "Nothing here is real.",
        {"subject": "Welcome to the sandbox", "sender": "Team <team@example.com>", "is_cut": False},
    ),
    "gmail_draft": Case("google", "google.api.gmail.drafts.create", _MAIL, "Created draft r"),
    "gmail_send": Case("google", "google.api.gmail.messages.send", _MAIL, "Sent (id "),
    "drive_search": Case("google", "google.api.drive.files.list", {"query": "ship small"}, "Team handbook"),
    "drive_read": Case(
        "google",
        "google.api.drive.files.export",
        {"file": drives.DOC},
        "Google Doc",
        {"text": "Be kind.\nShip small.\n", "next_offset": None},
    ),
    "calendar_calendars": Case("google", f"{_CALENDAR}.calendarList.list", {}, "written by other people", {}),
    "calendar_update": Case(
        "google",
        f"{_CALENDAR}.events.patch",
        {
            "summary": "Moved",
            "start": "2026-12-01T09:00:00+01:00",
            "end": "2026-12-01T10:00:00+01:00",
        },
        "Changed Moved",
        {"title": "Moved", "start": "2026-12-01T09:00:00+01:00"},
        _an_event,
    ),
    "calendar_delete": Case("google", f"{_CALENDAR}.events.delete", {}, "Deleted.", {}, _an_event),
}
_JIRA = {"site": jira.SITE}
_APRIL = "2026-12-01T00:00:00Z"
NOTION: Mapping[str, Case] = {
    "notion_search": Case("notion", "", {"query": "handbook"}, "Team handbook", {"id": notion.HOME}),
    "notion_read": Case("notion", "", {"page": notion.HOME}, "paragraph:", {"text": "Be kind. Ship small."}),
    "notion_create": Case(
        "notion", "", {"parent": notion.HOME, "title": "Offsite", "text": "In May."}, "Created https://www.notion.so/"
    ),
    "notion_comment": Case("notion", "", {"page": notion.HOME, "text": "Well said."}, "Commented"),
}
LINEAR: Mapping[str, Case] = {
    "linear_teams": Case("linear", "", {}, "ENG", {"id": linear.TEAM, "name": "Engineering"}),
    "linear_search": Case("linear", "", {"query": "dark"}, "ENG-2", {"id": "ENG-2", "state": "Todo"}),
    "linear_read": Case("linear", "", {"issue": "ENG-1"}, "Only on Sundays", {"title": "Login fails on Safari"}),
    "linear_create": Case("linear", "", {"team": linear.TEAM, "title": "Faster start"}, "Created ENG-"),
    "linear_comment": Case("linear", "", {"issue": "ENG-1", "text": "On it."}, "Commented: https://linear.app/"),
}
JIRA: Mapping[str, Case] = {
    "jira_sites": Case("atlassian", "", {}, "sandbox", {"id": jira.SITE}),
    "jira_search": Case("atlassian", "", {**_JIRA, "jql": 'text ~ "database"'}, "OPS-2", {"status": "Done"}),
    "jira_read": Case("atlassian", "", {**_JIRA, "issue": "OPS-1"}, "Before Friday", {"key": "OPS-1"}),
    "jira_create": Case("atlassian", "", {**_JIRA, "project": "OPS", "title": "Buy disks"}, "Created OPS-"),
    "jira_comment": Case("atlassian", "", {**_JIRA, "issue": "OPS-1", "text": "Done."}, "Commented", {"id": "20001"}),
}
HUBSPOT: Mapping[str, Case] = {
    "hubspot_contacts": Case("hubspot", "", {"query": "dana"}, "Dana", {"id": "101", "email": "dana@customer.example"}),
    "hubspot_contact_read": Case("hubspot", "", {"contact": "101"}, "Dana Reed, Buyer at", {"job": "Buyer"}),
    "hubspot_companies": Case("hubspot", "", {"query": "berlin"}, "Customer GmbH", {"domain": "customer.example"}),
    "hubspot_deals": Case("hubspot", "", {"query": "renewal"}, "contractsent", {"id": "501", "amount": "1200"}),
    "hubspot_note": Case(
        "hubspot", "", {"contact": "101", "text": "Called.", "at": _APRIL}, "Added the note", {"id": "9001"}
    ),
}
SALESFORCE: Mapping[str, Case] = {
    "salesforce_contacts": Case(
        "salesforce", "", {"query": "reed"}, "Dana Reed", {"id": salesforce.CONTACT, "email": "dana@customer.example"}
    ),
    "salesforce_contact_read": Case(
        "salesforce",
        "",
        {"contact": salesforce.CONTACT},
        ", Buyer, Purchasing",
        {"company": "0015g00000Acme1AAA"},
    ),
    "salesforce_accounts": Case("salesforce", "", {"query": "acme"}, "Acme", {"website": "https://acme.example"}),
    "salesforce_note": Case(
        "salesforce",
        "",
        {"contact": salesforce.CONTACT, "subject": "Called", "text": "Wants a quote.", "on": "2026-11-25"},
        "Added the note (id 00T",
    ),
}
FACEBOOK: Mapping[str, Case] = {
    "facebook_pages": Case("facebook", "", {}, "Sandbox Garden"),
    "facebook_page_read": Case("facebook", "", {"page": facebook.PAGE}, "12 followers", {"name": "Sandbox Garden"}),
    "facebook_post": Case(
        "facebook",
        "",
        {"page": facebook.PAGE, "text": "Seeds are in."},
        "Posted: https://www.facebook.com/104000000000001_",
    ),
}
MICROSOFT: Mapping[str, Case] = {
    "outlook_search": Case("microsoft", "", {"query": "budget"}, "Budget", {"from": "bob@example.com"}),
    "outlook_read": Case("microsoft", "", {"message": graph.MESSAGE}, "The numbers are in", {"kind": "text"}),
    "outlook_draft": Case("microsoft", "", {"to": "a@b.example", "subject": "Hi", "text": "Hello"}, "Drafted"),
    "outlook_send": Case("microsoft", "", {"to": "a@b.example", "subject": "Hi", "text": "Hello"}, "Sent."),
    "outlook_events": Case("microsoft", "", {"time_min": _APRIL, "time_max": _APRIL}, "Planning", {"time_zone": "UTC"}),
    "outlook_event_create": Case(
        "microsoft",
        "",
        {"title": "Sync", "start": "2026-12-01T10:00:00+01:00", "end": "2026-12-01T11:00:00+01:00"},
        "Created Sync at 2026-12-01T09:00:00",
        {"start": "2026-12-01T09:00:00"},
    ),
    "onedrive_folder": Case("microsoft", "", {"folder": graph.FOLDER}, "minutes.txt", {"size": 4096, "entries": None}),
    "onedrive_files": Case("microsoft", "", {"limit": 1}, "report.docx", {"size": 20480}),
}
ASANA: Mapping[str, Case] = {
    "asana_workspaces": Case("asana", "", {}, "My Company Workspace", {"id": "12345"}),
    "asana_tasks": Case("asana", "", {"workspace": "12345"}, "Bug Task", {"id": "12345", "name": "Bug Task"}),
    "asana_task_read": Case("asana", "", {"task": "12345"}, "Buy catnip", {"completed": False}),
    "asana_task_create": Case(
        "asana",
        "",
        {"workspace": "12345", "title": "Buy catnip", "due": "2026-12-01"},
        "Created 12345",
        {"id": "12345"},
    ),
}
DIGITALOCEAN: Mapping[str, Case] = {
    "digitalocean_droplets": Case("digitalocean", "", {}, "example.com", {"status": "active"}),
    "digitalocean_records": Case("digitalocean", "", {"domain": "example.com"}, "NS", {"type": "NS"}),
    "digitalocean_droplet_action": Case(
        "digitalocean", "", {"droplet": "12", "action": "reboot"}, "is completed", {"status": "completed"}
    ),
}
FIGMA: Mapping[str, Case] = {
    "figma_file": Case("figma", "", {"file": "abc123"}, "text (figma", {"kind": "figma"}),
    "figma_comments": Case("figma", "", {"file": "abc123"}, "text", {"author": "text"}),
    "figma_comment": Case("figma", "", {"file": "abc123", "text": "Bigger."}, "Commented", {"id": "text"}),
}
PAGERDUTY: Mapping[str, Case] = {
    "pagerduty_incidents": Case("pagerduty", "", {"status": "resolved"}, "on fire", {"id": "PT4KHLK", "number": 1234}),
    "pagerduty_incident_read": Case("pagerduty", "", {"incident": "PT4KHLK"}, "on fire", {"status": "acknowledged"}),
    "pagerduty_on_call": Case("pagerduty", "", {}, "Tim Wright", {"level": 2}),
    "pagerduty_note": Case(
        "pagerduty", "", {"incident": "PT4KHLK", "text": "On it."}, "Added the note", {"id": "PWL7QXS"}
    ),
}
FAMILIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "github": ("github", ("rest",)),
    "notion": ("api-notion", ("main",)),
    "linear": ("api-linear", ("main",)),
    "atlassian": ("api-atlassian", ("main",)),
    "hubspot": ("api-hubspot", ("main",)),
    "salesforce": ("api-salesforce", ("main",)),
    "facebook": ("api-facebook", ("main",)),
    "microsoft": ("api-microsoft", ("graph",)),
    "asana": ("api-asana", ("main",)),
    "digitalocean": ("api-digitalocean", ("main",)),
    "figma": ("api-figma", ("main",)),
    "pagerduty": ("api-pagerduty", ("main",)),
}  # provider -> the simulator's mode, and the APIs of its file


def settings_of_families(simulator: Simulator) -> Mapping[str, Mapping[str, object]]:
    """Settings of every provider here that is neither Slack nor Google."""
    return {name: family_settings(simulator, mode, apis=apis) for name, (mode, apis) in FAMILIES.items()}


def endpoint_of(case: Case) -> str:
    """What a fault must name to affect the call behind a case."""
    return case.endpoint or f"families.{FAMILIES[case.provider][0]}.api"


CASES: Mapping[str, Case] = {
    **SLACK,
    **GOOGLE,
    **GITHUB,
    **NOTION,
    **LINEAR,
    **JIRA,
    **HUBSPOT,
    **SALESFORCE,
    **FACEBOOK,
    **MICROSOFT,
    **ASANA,
    **DIGITALOCEAN,
    **FIGMA,
    **PAGERDUTY,
}
