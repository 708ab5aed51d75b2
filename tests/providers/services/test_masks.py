"""What services' files mask: members with which an agent could do more than it may, or after its permission ended."""

from __future__ import annotations

import json

import pytest

from providers.api.masked_members import masked_names
from providers.api.rules import of_path
from providers.definitions.catalog import load_catalog

CATALOG = load_catalog()
SECRET = "https://x.example/?secret=canary"
CHILDREN = "/me/drive/root/children"
INVITEES = "/scheduled_events/1/invitees"
ALERTS = "/uptime/checks/1/alerts"
RECIPIENTS = "/v2.1/accounts/1/envelopes/2/recipients"


def is_masked(provider: str, path: str, member: str, *scopes: str) -> bool:
    """Whether an agent with these scopes doesn't see this member of an answer; its other parts stay."""
    found = CATALOG.provider(provider)
    api = next((one for one in found.apis if of_path(found, api=one, method="GET", path=path)), next(iter(found.apis)))
    body: object = SECRET
    for name in reversed(member.split("/")):
        body = {"id": 1, name: [body] if name.endswith("s") else body}
    content = json.dumps(body)
    masked = masked_names(found, frozenset(scopes), api=api, method="GET", path=path, content_type="application/json")
    answer = content if masked is None else masked.mask().whole(content.encode()).decode()
    assert answer.startswith('{"id": 1') and (answer == content or SECRET not in answer)
    return answer != content


@pytest.mark.parametrize(
    ("provider", "path", "member"),
    [
        ("box", "/2.0/files/1", "expiring_embed_link/url"),
        ("box", "/2.0/files/1", "expiring_embed_link/access_token"),
        ("calendly", INVITEES, "collections/cancel_url"),
        ("calendly", INVITEES, "collections/reschedule_url"),
        ("digitalocean", ALERTS, "alerts/notifications/slacks/url"),
        ("digitalocean", ALERTS + "/2", "alerts/notifications/slacks/url"),
        ("docusign", RECIPIENTS, "signers/accessCode"),
        ("harvest", "/clients", "clients/statement_key"),
        ("microsoft", CHILDREN, "values/thumbnails/large/url"),
        ("microsoft", "/me/drive/items/1/thumbnails", "values/large/url"),
        ("microsoft", "/drives/1/items/2/thumbnails/0/large", "url"),
        ("microsoft", CHILDREN, "values/@microsoft.graph.downloadUrl"),
        ("pagerduty", "/users/PU1", "user/http_cal_url"),
        ("pagerduty", "/users/PU1", "user/web_cal_url"),
        ("pagerduty", "/log_entries", "log_entries/channel/service_key"),
        ("pagerduty", "/incidents/PI1/related_change_events", "change_events/routing_key"),
        ("zoom", "/users/me/recordings", "meetings/recording_play_passcode"),
        ("zoom", "/users/me/recordings", "meetings/password"),
        ("zoom", "/users/me/meetings", "meetings/start_url"),
    ],
)
def test_what_works_without_the_vault_is_masked(provider: str, path: str, member: str) -> None:
    assert is_masked(provider, path, member)


@pytest.mark.parametrize(
    ("provider", "path", "member"),
    [
        ("airtable", "/app1/tbl1", "records/fields/Photos/url"),  # only this address opens the file, for two hours
        ("notion", "/pages/1", "files/file/url"),  # likewise, for an hour
        ("calendly", INVITEES, "collections/uri"),
        ("digitalocean", ALERTS, "alerts/notifications/email"),
        ("digitalocean", "/droplets", "links/url"),
        ("docusign", RECIPIENTS, "signers/email"),
        ("harvest", "/clients", "clients/name"),
        ("microsoft", CHILDREN, "values/webUrl"),
        ("pagerduty", "/users/PU1", "user/html_url"),
        ("pagerduty", "/incidents", "incidents/incident_key"),
        ("slack", "/files.info", "file/url_private"),  # opens nothing without a token
        ("zoom", "/users/me/recordings", "meetings/download_url"),  # likewise
        ("zoom", "/users/me/meetings", "meetings/join_url"),  # an invitation
        ("zoom", "/users/me/meetings", "meetings/password"),  # part of an invitation
    ],
)
def test_other_members_and_addresses_stay(provider: str, path: str, member: str) -> None:
    assert not is_masked(provider, path, member)


@pytest.mark.parametrize(("scope", "expected"), [("scheduled_events:read", True), ("scheduled_events:write", False)])
def test_links_that_cancel_and_move_bookings_are_shown_to_those_who_may_cancel(scope: str, *, expected: bool) -> None:
    assert is_masked("calendly", INVITEES, "collections/cancel_url", scope) is expected


def test_dropbox_has_a_rule_for_a_files_content_but_none_for_a_link_to_it() -> None:
    dropbox = CATALOG.provider("dropbox")
    assert not of_path(dropbox, api="rpc", method="POST", path="/files/get_temporary_link")
    (rule,) = of_path(dropbox, api="content", method="POST", path="/files/download")
    assert rule.scopes == {"files.content.read"}
