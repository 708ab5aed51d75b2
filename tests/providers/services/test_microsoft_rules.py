"""Rules of Microsoft Graph: what its permissions accept, for the person's own data and what the scope's title says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from providers.api.rules import Call, Payload, allows
from providers.definitions.catalog import load_catalog
from tests.generating import microsoft
from tests.generating.microsoft import Calls, Metadata

GRAPH = load_catalog().provider("microsoft")
MAIL = frozenset({"Mail.Read", "Mail.ReadWrite", "Mail.Send"})


def is_let_through(
    method: str, path: str, *scopes: str, granted: frozenset[str] | None = None, **parameters: object
) -> bool:
    call = Call("graph", method, path, parameters, Payload(frozenset(parameters)))
    return allows(GRAPH, call, frozenset(scopes), granted=granted)


def test_the_rules_say_where_they_come_from_and_are_those_of_the_reviewed_calls() -> None:
    made = json.loads(microsoft.TARGET.read_text(encoding="utf-8"))
    assert made["source"]["permissions"].startswith("github.com/microsoftgraph/microsoft-graph-devx-content ")
    assert made["source"]["metadata"].startswith("github.com/microsoftgraph/msgraph-metadata ")
    listed = [
        (part.calls.split()[0], path, part.scope, part.needs)
        for part in microsoft.PARTS
        for path in part.calls.split()[1:]
    ]
    assert len(listed) == len(set(listed)) > 150
    rules = [(one["method"], one["path"], *one["scopes"], *one.get("needs", [""])) for one in made["rules"]]
    assert rules == listed
    assert len(GRAPH.rules) == len(rules) + 1  # /me, by hand


@pytest.mark.parametrize(
    ("method", "path", "least", "other"),
    [
        ("GET", "/me/mailFolders/1/messages/2", "Mail.Read", "Mail.Send"),
        ("GET", "/me/messages/1/attachments/2", "Mail.ReadWrite", "Calendars.Read"),
        ("POST", "/me/messages/1/createReply", "Mail.ReadWrite", "Mail.Read"),
        ("DELETE", "/me/mailFolders/1", "Mail.ReadWrite", "Mail.Read"),
        ("GET", "/me/calendars/1/calendarView", "Calendars.Read", "Mail.Read"),
        ("POST", "/me/events/1/accept", "Calendars.ReadWrite", "Calendars.Read"),
        ("GET", "/me/drive/root/search(q='a')", "Files.Read", "Sites.Read.All"),
        ("PUT", "/me/drive/items/root:/a.txt:/content", "Files.ReadWrite", "Sites.ReadWrite.All"),
        ("PATCH", "/me/drive/items/1/workbook/worksheets/2/range(address='A1:B2')", "Files.ReadWrite", "Files.Read"),
        ("GET", "/me/drive/items/1/workbook/worksheets", "Files.ReadWrite", "Files.Read"),  # opens the file
        ("GET", "/me/onenote/pages/1/content", "Notes.Read", "Files.Read"),
        ("DELETE", "/me/onenote/pages/1", "Notes.ReadWrite", "Notes.Read"),
        ("PATCH", "/me/contacts/1", "Contacts.ReadWrite", "Contacts.Read"),
        ("DELETE", "/me/todo/lists/1", "Tasks.ReadWrite", "Tasks.Read"),
        ("GET", "/sites/a.sharepoint.com,1,2/lists/3/items", "Sites.Read.All", "Files.Read"),
        ("POST", "/sites/1/lists/2/items", "Sites.ReadWrite.All", "Sites.Read.All"),
        ("GET", "/sites/a.sharepoint.com:/sites/team", "Sites.Read.All", "Files.Read"),
        ("POST", "/chats/1/messages", "Chat.ReadWrite", "Chat.Read"),
        ("GET", "/teams/1/channels", "Channel.ReadBasic.All", "Team.ReadBasic.All"),
        ("POST", "/teams/1/channels/2/messages", "ChannelMessage.Send", "Chat.ReadWrite"),
    ],
)
def test_a_call_of_graph_needs_the_scope_whose_title_describes_it(
    method: str, path: str, least: str, other: str
) -> None:
    assert is_let_through(method, path, least)
    assert not is_let_through(method, path, other)


@pytest.mark.parametrize("action", ["reply", "replyAll", "forward", "send"])
def test_a_message_is_sent_on_by_who_may_read_it(action: str) -> None:
    path = f"/me/messages/1/{action}"
    assert not is_let_through("POST", path, "Mail.Send")
    assert not is_let_through("POST", path, "Mail.Send", granted=MAIL)
    assert not is_let_through("POST", path, "Mail.Read", "Mail.ReadWrite")
    assert is_let_through("POST", path, "Mail.Send", "Mail.Read")
    assert is_let_through("POST", path, "Mail.Send", "Mail.ReadWrite")
    assert is_let_through("POST", "/me/sendMail", "Mail.Send")


@pytest.mark.parametrize(
    ("method", "path", "near"),
    [
        ("GET", "/users/ann@example.com/messages", "/me/messages"),
        ("GET", "/users/ann@example.com/calendar/events", "/me/calendar/events"),
        ("GET", "/drives/1/items/2", "/me/drive/items/2"),
        ("GET", "/me/drive/sharedWithMe", "/me/drive/root/children"),
        ("GET", "/me/drive/items/1/permissions", "/me/drive/items/1/versions"),  # may contain sharing links
        ("GET", "/me/drive/items/1/thumbnails", "/me/drive/items/1/versions"),
        ("GET", "/planner/plans/1/tasks", "/me/planner/tasks"),
        ("GET", "/me/calendar/calendarPermissions", "/me/calendar/events"),
        ("GET", "/me/mailFolders/inbox/messageRules", "/me/mailFolders/inbox/messages"),
        ("GET", "/teams", "/me/joinedTeams"),
        ("POST", "/me/drive/items/1/createLink", "/me/drive/items/1/checkout"),
        ("POST", "/me/drive/items/1/invite", "/me/drive/items/1/checkout"),
        ("POST", "/me/drive/items/1/preview", "/me/drive/items/1/checkout"),
        ("POST", "/me/drive/items/1:/a.txt:/createUploadSession", "/me/drive/items/1/children"),
        ("POST", "/me/messages/1/attachments/createUploadSession", "/me/messages/1/attachments"),
        ("POST", "/me/events/1/forward", "/me/events/1/accept"),
        ("POST", "/chats/1/members", "/chats/1/messages"),
        ("POST", "/me/drive/items/1/workbook/createSession", "/me/drive/items/1/workbook/worksheets/add"),
        ("GET", "/users/ann@example.com/onenote/pages", "/me/onenote/pages"),
        ("POST", "/search/query", "/chats"),
        ("POST", "/subscriptions", "/chats"),
        ("POST", "/$batch", "/chats"),
    ],
)
def test_a_call_of_graph_that_shares_or_reaches_other_peoples_data_has_no_rule(
    method: str, path: str, near: str
) -> None:
    assert not is_let_through(method, path, *GRAPH.all_scopes)
    assert is_let_through(method, near, *GRAPH.all_scopes)


@pytest.mark.parametrize(
    ("path", "is_allowed"),
    [
        ("/me/drive/root:/a.txt:/content", True),
        ("/me/drive/root:/a%20b.txt:/content", True),
        ("/me/drive/root:/a.txt:/createdByUser/drive/root:/b.txt:/content", False),
        ("/me/drive/root:/a.txt:%2FcreatedByUser%2Fdrive%2Froot:%2Fb.txt:/content", False),
        ("/me/drive/items/1/createdByUser/drive/root/children", False),
        ("/me/drive/items/1/children", True),
    ],
)
def test_no_path_in_a_drive_leads_to_somebody_else(path: str, *, is_allowed: bool) -> None:
    assert is_let_through("GET", path, "Files.Read") is is_allowed
    assert is_let_through("GET", path, "Files.Read", granted=GRAPH.all_scopes) is is_allowed


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("PUT", "/me/drive/items/1/content", "Files.ReadWrite"),
        ("PUT", "/me/drive/items/root:/a.txt:/content", "Files.ReadWrite"),
        ("GET", "/me/drive/items/1/workbook/worksheets", "Files.ReadWrite"),
        ("PATCH", "/me/drive/items/1/workbook/worksheets/2/range(address='A1')", "Files.ReadWrite"),
        ("POST", "/me/drive/items/1/workbook/worksheets/add", "Files.ReadWrite"),
        ("POST", "/me/drive/items/1/workbook/tables/2/rows/add", "Files.ReadWrite"),
        ("PUT", "/sites/1/drive/items/2/content", "Sites.ReadWrite.All"),
        ("PUT", "/sites/1/drive/items/2:/a.txt:/content", "Sites.ReadWrite.All"),
        ("PATCH", "/sites/1/lists/2/items/3/fields", "Sites.ReadWrite.All"),
    ],
)
@pytest.mark.parametrize("name", ["$expand", "expand", "%24expand", "$EXPAND"])
def test_no_upload_or_workbook_shows_what_is_related_to_the_file(method: str, path: str, scope: str, name: str) -> None:
    for granted in (frozenset({scope}), GRAPH.all_scopes):
        assert is_let_through(method, path, scope, granted=granted)
        is_other = method == "GET" and name not in {"$expand", "expand"}  # the proxy refuses these spellings
        assert is_other or not is_let_through(method, path, scope, granted=granted, **{name: "listItem"})
    if method == "PUT":
        assert is_let_through(method, path, scope, **{"@microsoft.graph.conflictBehavior": "rename", "$select": "id"})


@pytest.mark.parametrize(
    ("value", "is_allowed"),
    [
        ("fields", True),
        ("fields($select=Title,Status)", True),
        ("driveItem", False),
        ("fields,driveItem", False),
        ("fields($expand=x)", False),
    ],
)
def test_the_items_of_a_list_are_shown_with_their_fields_only(value: str, *, is_allowed: bool) -> None:
    for granted in (frozenset({"Sites.Read.All"}), GRAPH.all_scopes):
        path, scope = "/sites/1/lists/2/items", "Sites.Read.All"
        call = {"$expand": value}
        assert is_let_through("GET", path, scope, granted=granted, **call) is is_allowed
        assert is_let_through("GET", path, scope, granted=granted, expand=value) is is_allowed
        assert is_let_through("GET", path, scope, granted=granted)


@pytest.mark.parametrize(
    ("method", "path", "scope", "relation"),
    [
        ("GET", "/me/drive/items/1", "Files.Read", "thumbnails"),
        ("GET", "/me/drive/root/children", "Files.Read", "permissions"),
        ("PATCH", "/me/drive/items/1", "Files.ReadWrite", "permissions"),
        ("GET", "/sites/1/drive/items/2/children", "Sites.Read.All", "thumbnails"),
        ("GET", "/sites/1/lists/2", "Sites.Read.All", "items(expand=driveItem)"),
        ("GET", "/me/calendars", "Calendars.Read", "calendarPermissions"),
        ("GET", "/teams/1", "Team.ReadBasic.All", "members"),
    ],
)
def test_no_related_object_of_a_file_site_or_calendar_is_shown_also_with_the_whole_grant(
    method: str, path: str, scope: str, relation: str
) -> None:
    for granted in (frozenset({scope}), GRAPH.all_scopes):
        assert not is_let_through(method, path, scope, granted=granted, **{"$expand": relation})
        assert not is_let_through(method, path, scope, granted=granted, expand=relation)
        assert is_let_through(method, path, scope, granted=granted, **{"$select": "id"} if method == "GET" else {})
    assert is_let_through("GET", "/me/messages/1", "Mail.Read", **{"$expand": "attachments"})


@pytest.mark.parametrize(
    ("method", "path", "scope", "sent", "more"),
    [
        ("PATCH", "/me/drive/items/1", "Files.ReadWrite", {"parentReference": {"id": "2"}}, {"driveId": "b!other"}),
        ("PATCH", "/me/drive/items/1", "Files.ReadWrite", {"parentReference": {"id": "2"}}, {"DriveId": "b!other"}),
        ("PATCH", "/me/drive/items/1", "Files.ReadWrite", {"parentReference": {"id": "2"}}, {"path": "/drives/3/root"}),
        ("PATCH", "/me/drive/items/1", "Files.ReadWrite", {"name": "a"}, {"remoteItem": {"id": "2"}}),
        ("POST", "/me/drive/root/children", "Files.ReadWrite", {"name": "a"}, {"@content.sourceUrl": "https://x"}),
        ("POST", "/sites/1/drive/items/2/children", "Sites.ReadWrite.All", {"name": "a"}, {"remoteItem": {"id": "2"}}),
        (
            *("POST", "/chats/1/messages", "Chat.ReadWrite"),
            {
                "body": {"content": "Hi"},
                "hostedContents": [{"@microsoft.graph.temporaryId": "1", "contentBytes": "eA=="}],
            },
            {"attachments": [{"contentType": "forwardedMessageReference", "content": "{}"}]},
        ),
        (
            *("POST", "/teams/1/channels/2/messages", "ChannelMessage.Send", {"body": {"content": "Hi"}}),
            {"attachments": [{"contentType": "forwardedMessageReference", "content": "{}"}]},
        ),
    ],
)
def test_nothing_comes_from_another_drive_or_chat_also_with_the_whole_grant(
    method: str, path: str, scope: str, sent: Mapping[str, object], more: Mapping[str, object]
) -> None:
    parent = sent.get("parentReference")
    full = {"parentReference": parent | dict(more)} if isinstance(parent, dict) else {**sent, **more}
    for body, is_allowed in ((sent, True), (full, False)):
        for granted in (frozenset({scope}), GRAPH.all_scopes):
            call = Call("graph", method, path, body, Payload(frozenset(), body))
            assert allows(GRAPH, call, frozenset({scope}), granted=granted) is is_allowed


@pytest.mark.parametrize(
    ("method", "path", "scope", "sent", "more"),
    [
        ("POST", "/me/contacts", "Contacts.ReadWrite", {"givenName": "Ann"}, {"extensions": [{}]}),
        ("POST", "/sites/1/lists/2/items", "Sites.ReadWrite.All", {"fields": {"Title": "a"}}, {"driveItem": {}}),
        ("POST", "/chats", "Chat.ReadWrite", {"chatType": "group", "members": [{}]}, {"installedApps": [{}]}),
        ("POST", "/me/messages/1/createForward", "Mail.ReadWrite", {"comment": "Hi"}, {"message": {"attachments": 1}}),
        ("PATCH", "/me/events/1", "Calendars.ReadWrite", {"subject": "Hi"}, {"calendar": {}}),
    ],
)
def test_a_body_of_graph_has_no_related_object_where_the_token_can_do_more(
    method: str, path: str, scope: str, sent: Mapping[str, object], more: Mapping[str, object]
) -> None:
    for body, is_allowed in ((sent, True), ({**sent, **more}, False)):
        call = Call("graph", method, path, body, Payload(frozenset(), body))
        assert allows(GRAPH, call, frozenset({scope}), granted=GRAPH.all_scopes) is is_allowed
        assert allows(GRAPH, call, frozenset({scope}))


# The generator

_PATHS = {"/me/things": "", "/me/things/{id}": "", "/users/me/things/{id}/move": "least=DelegatedWork"}
PERMISSIONS = {
    "permissions": {
        "Things.Read": {"pathSets": [{"schemeKeys": ["DelegatedWork"], "methods": ["GET"], "paths": _PATHS}]},
        "Things.All": {"pathSets": [{"schemeKeys": ["Application"], "methods": ["GET", "POST"], "paths": _PATHS}]},
        "Things.Write": {"pathSets": [{"schemeKeys": ["DelegatedWork"], "methods": ["POST"], "paths": _PATHS}]},
    }
}
METADATA = """<Schema xmlns="http://docs.oasis-open.org/odata/ns/edm">
<EntityType Name="entity"><Property Name="id"/></EntityType>
<EntityType Name="contact" BaseType="graph.entity"><Property Name="name"/><Property Name="parentFolderId"/>
<NavigationProperty Name="things"/><NavigationProperty Name="owner"/></EntityType>
<Singleton Name="me"/><Action Name="move"><Parameter Name="bindingParameter" Type="graph.contact"/>
<Parameter Name="DestinationId" Type="Edm.String"/></Action></Schema>"""


@pytest.fixture
def metadata(tmp_path: Path) -> Metadata:
    (tmp_path / "metadata.xml").write_text(METADATA, encoding="utf-8")
    return Metadata(tmp_path / "metadata.xml")


def test_a_rule_has_the_members_that_the_metadata_knows(metadata: Metadata) -> None:
    parts = (
        Calls("Things.Read", "GET /me/things /me/things/{}", query="$select"),
        Calls("Things.Write", "POST /me/things", of="contact", exact=True),
        Calls("Things.Write", "POST /me/things/{}/move", of="contact.move", needs="Things.Read"),
    )
    read = {"api": "graph", "method": "GET", "scopes": ["Things.Read"], "query": ["$select"]}
    write = {"api": "graph", "method": "POST", "scopes": ["Things.Write"]}
    assert list(microsoft.rules(PERMISSIONS, metadata, parts)) == [
        {**read, "path": "/me/things"},
        {**read, "path": "/me/things/{}"},
        {**write, "path": "/me/things", "body": ["@odata.type", "name"], "exact": True},
        {
            **write,
            "path": "/me/things/{}/move",
            "needs": ["Things.Read"],
            "body": ["DestinationId", "destinationId"],
        },
    ]


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (Calls("Things.Read", "POST /me/things"), "accepts Things.Write, not Things.Read"),
        (Calls("Things.All", "GET /me/things"), "accepts Things.Read, not Things.All"),  # for applications
        (Calls("Things.Read", "GET /me/thinGs"), "the metadata has no thinGs"),
        (Calls("Things.Write", "POST /me/things", of="contact", body=("owned",)), "contact has no owned"),
        (Calls("Things.Write", "POST /me/things", of="contact.copy"), "the metadata has no contact.copy"),
    ],
)
def test_a_reviewed_call_that_the_documents_do_not_confirm_gets_no_rule(
    metadata: Metadata, part: Calls, problem: str
) -> None:
    with pytest.raises(SystemExit, match=problem):
        list(microsoft.rules(PERMISSIONS, metadata, [part]))
