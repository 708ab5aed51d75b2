"""Attacks on request rules: an agent has one narrow permission, and its account's token can do everything.

The rules in the provider file must block what the agent asks for; the scripted provider shows what arrived.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlencode

import pytest

from tests.attacks.target import Target, talk
from tests.attacks.wire.handles import Handle, handle

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
# Provider, API, and the one scope that the agent may use; the account was connected with all scopes.
NARROW = {
    "mail": ("microsoft", "graph", "Mail.Read"),
    "drafts": ("microsoft", "graph", "Mail.ReadWrite"),
    "sending": ("microsoft", "graph", "Mail.Send"),
    "profile": ("microsoft", "graph", "User.Read"),
    "files": ("microsoft", "graph", "Files.ReadWrite"),
    "jira": ("atlassian", "main", "read:jira-work"),
    "jira writing": ("atlassian", "main", "write:jira-work"),
    "notion": ("notion", "main", "read"),
    "salesforce": ("salesforce", "main", "api"),
    "contacts": ("hubspot", "main", "crm.objects.contacts.read"),
    "notes": ("hubspot", "main", "crm.objects.contacts.write"),
    "dropbox": ("dropbox", "rpc", "files.metadata.read"),
    "dropbox reading": ("dropbox", "content", "files.content.read"),
    "box": ("box", "content", "base_preview"),
    "box folders": ("box", "content", "base_explorer"),
}
# The twin of everything below: permitted requests pass.
HONEST: dict[str, tuple[str, str, object]] = {
    "mail": ("GET", "/me/messages?$select=id,subject&$top=5", None),
    "drafts": ("POST", "/me/messages", {"subject": "x", "attachments": [{"name": "a", "contentBytes": "eA=="}]}),
    "sending": ("POST", "/me/sendMail", {"message": {"subject": "x"}, "saveToSentItems": True}),
    "files": ("PATCH", "/me/drive/items/1", {"name": "a", "parentReference": {"id": "2"}}),
    "jira": ("GET", "/ex/jira/1/rest/api/2/issue/A-1?fields=summary", None),
    "jira writing": ("POST", "/ex/jira/1/rest/api/2/issue/A-1/comment", {"body": "x"}),
    "notion": ("POST", "/search", {"query": "x"}),
    "salesforce": ("POST", "/v63.0/parameterizedSearch", {"q": "x", "sobjects": [{"name": "Contact", "limit": 5}]}),
    "contacts": ("GET", "/crm/v3/objects/contacts/1?properties=email", None),
    "notes": (
        "POST",
        "/crm/v3/objects/notes",
        {
            "properties": {"hs_note_body": "x"},
            "associations": [
                {"to": {"id": 1}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 202}]}
            ],
        },
    ),
    "dropbox": ("POST", "/files/list_folder", {"path": "", "recursive": True}),
    "box": ("GET", "/2.0/files/1?fields=name,size", None),
    "box folders": ("GET", "/2.0/folders/0/items?limit=5", None),
}

# Paths in all the spellings that servers treat alike. Each is sent exactly as written.
SPELLINGS = {
    "mail": (
        "/me/messages/../drive/root/children",
        "/me/messages/%2e%2e/drive",
        "/me/messages/%252e%252e/drive",
        "/me/messages/..;/drive",
        "/me/messages/1;a=b",
        "/me/messages/1%3Ba=b",
        "/me\\drive",
        "/me/messages/1%5C..%5C..%5Cdrive",
        "/me//drive",
        "/ME/DRIVE",
        "/me/drive.",
        "/me/drive/",
        "/me/driv%65",
        "/me/messages/1%2Fextensions",
        "/me/messages/1/extensions",
        "/me/messages/1/$value",
        "/me/messages/1/microsoft.graph.forward",
        "/me/messages('1')/extensions",
        "/users/bob@example.com/messages",
        "/v1.0/me/drive",
        "/v1.0/me/messages/1/extensions",
        "/v1.0/me/messages/../drive",
        "/v1.0/v1.0/me/messages",
        "/v1.0/beta/me/messages",
        "/v1%2E0/me/drive",
        "/V1.0/me/messages",
        "/v1.0//me/messages",
        "/beta/me/messages",
        "/me/mailFolders/inbox/messageRules",
        "/me/messages/1/%E3%80%82%E3%80%82/drive",
        "http://evil.example/me/messages",
        "/@evil.example/me/messages",
        "/me/messages%3F$expand=attachments",
        "/me/messages%23",
        "/me/messages%00",
        "/me/messages/1%0d%0aX-Evil:%20a",
        "/$batch",
        "/subscriptions",
        "/me/messages/delta()/../../drive",
    ),
    "jira": (
        "/ex/jira/1/rest/api/2/issue/A-1/properties",
        "/ex/jira/1/rest/api/2/issue/A-1/attachments",
        "/ex/jira/1/rest/api/3/issue/A-1/properties",
        "/ex/jira/1/rest/api/latest/issue/A-1",
        "/ex/jira/1/rest/api/2/webhook",
        "/ex/jira/1/rest/api/2/user/search",
        "/ex/jira/1/rest/api/2/issue/A-1;jsessionid=1",
        "/ex/jira/1/rest/api/2/issue/..%2fuser",
        "/ex/jira/1%2f..%2fconfluence/1/rest/api/2/issue/A-1",
        "/ex/confluence/1/wiki/rest/api/content",
        "/ex/JIRA/1/rest/api/2/search",
        "/ex/jira/1/rest/agile/1.0/board",
        "/graphql",
        "/ex/jira/1/rest/api/2/issue/%2e%2e/search",
    ),
    "notion": ("/users", "/pages/1/properties/x", "/databases/1", "/blocks/1", "/comments?block_id=1", "/file_uploads"),
    "salesforce": (
        "/v63.0/query?q=SELECT+Id+FROM+User",
        "/v63.0/queryAll?q=SELECT+Id+FROM+User",
        "/v63.0/search?q=FIND+%7Ba%7D",
        "/v63.0/sobjects/TwoFactorInfo/1",
        "/v63.0/sobjects/User/1",
        "/v63.0/sobjects/Task/../User",
        "/v63.0/sobjects/task%2FUser",
        "/v63.0/analytics/reports",
        "/v63.0/sobjects/User/1/password",
        "/V63.0/sobjects/Contact",
        "/v64.0/sobjects/ContentDistribution/1",
    ),
    "contacts": (
        "/crm/v3/objects/deals/1",
        "/crm/v3/objects/0-3/1",
        "/crm/v3/objects/contacts/1/associations/deals",
        "/crm/v4/objects/contacts/1/associations/deals",
        "/crm/v3/objects/contacts/1%2Fassociations%2Fdeals",
        "/crm/v3/objects/contacts/../deals/1",
        "/crm/v3/objects/contacts/%2e%2e/deals/1",
        "/crm/v3/objects/notes",
        "/CRM/v3/objects/Deals/1",
        "/crm/v3/owners",
        "/contacts/v1/lists/all/contacts/all",
        "/oauth/v1/access-tokens/x",
    ),
    "box": (
        "/2.0/files/1/content",
        "/2.0/files/1/versions",
        "/2.0/files/1/comments",
        "/2.0/files/1%2Fcontent",
        "/2.0/files/1/../2/content",
        "/2.0/files/1;x/content",
        "/2.0/FILES/1/Content",
        "/2.0/files/1/content.",
        "/2.0/shared_items",
        "/2.0/collaborations/1",
        "/2.0/users",
        "/2.0/events",
        "/2.0/search?query=x",
        "/2.0/webhooks",
    ),
}
WRITES = {
    "mail": ("POST /me/messages", "PATCH /me/messages/1", "DELETE /me/messages/1", "POST /me/sendMail", "POST /$batch"),
    "drafts": ("POST /me/sendMail", "POST /me/messages/1/send", "POST /me/messages/1/forward", "POST /subscriptions"),
    "sending": ("POST /me/messages", "POST /me/messages/1/send"),
    "files": (
        *("POST /me/drive/items/1/createLink", "POST /me/drive/items/1/invite", "POST /me/drive/items/1/copy"),
        *("POST /drives/1/items/2/children", "POST /drives/1/items", "POST /me/drive/items/1/createUploadSession"),
    ),
    "jira": (
        "POST /ex/jira/1/rest/api/2/issue",
        "POST /ex/jira/1/rest/api/2/search",
        "POST /ex/jira/1/rest/api/2/webhook",
    ),
    "jira writing": (
        *("PUT /ex/jira/1/rest/api/2/issue/archive", "DELETE /ex/jira/1/rest/api/2/issue/A-1", "POST /graphql"),
        *("POST /ex/jira/1/rest/api/2/issue/bulk", "POST /ex/jira/1/rest/api/2/issue/A-1/attachments"),
    ),
    "notion": (
        "POST /pages",
        "PATCH /pages/1",
        "PATCH /blocks/1/children",
        "POST /comments",
        "POST /databases/1/query",
    ),
    "salesforce": (
        *("POST /v63.0/composite", "POST /v63.0/composite/batch", "POST /v63.0/composite/tree/Account"),
        *(
            "POST /v63.0/jobs/query",
            "POST /v63.0/jobs/ingest",
            "POST /v63.0/sobjects/User",
            "POST /v63.0/sobjects/task/x",
        ),
        *("PATCH /v63.0/sobjects/User/1", "DELETE /v63.0/sobjects/Task/1", "POST /v63.0/tooling/executeAnonymous"),
    ),
    "contacts": (
        *(
            "POST /crm/v3/objects/contacts",
            "POST /crm/v3/objects/contacts/batch/archive",
            "PATCH /crm/v3/objects/contacts/1",
        ),
        *(
            "POST /crm/v3/objects/deals/search",
            "POST /webhooks/v3/1/subscriptions",
            "POST /crm/v3/objects/contacts/merge",
        ),
    ),
    "notes": ("POST /crm/v3/objects/notes/batch/create", "POST /crm/v3/objects/deals", "PUT /crm/v3/objects/notes/1"),
    "dropbox": (
        *(
            "POST /files/get_temporary_link",
            "POST /files/delete_v2",
            "POST /files/copy_batch_v2",
            "POST /files/save_url",
        ),
        *(
            "POST /sharing/list_shared_links",
            "POST /sharing/create_shared_link_with_settings",
            "POST /file_requests/create",
        ),
        *("POST /files/list_folder/longpoll", "POST /team/members/list", "POST /files/list_folder/../delete_v2"),
        *("POST /files/List_Folder/../../sharing/add_folder_member", "GET /files/list_folder"),
    ),
    "dropbox reading": (
        "POST /files/upload",
        "POST /files/export",
        "POST /sharing/get_shared_link_file",
        "GET /files/download",
    ),
    "box": (
        "PUT /2.0/files/1",
        "DELETE /2.0/files/1",
        "POST /2.0/files/1/copy",
        "OPTIONS /2.0/files/content",
        "POST /2.0/webhooks",
    ),
}
QUERIES = {
    "mail": (
        *("$expand=attachments", "expand=attachments", "%24expand=attachments", "$Expand=attachments", "%2524expand=x"),
        *(
            "$select=id&$expand=singleValueExtendedProperties",
            "$top=1;$expand=attachments",
            "$apply=aggregate",
            "$format=x",
        ),
        *(
            "$select=id&$select=body&select=x",
            "$levels=max",
            "$deltatoken=latest",
            "$batch=1",
            "$compute=x",
            "x[$expand]=a",
        ),
        *(
            "access_token=x",
            "$method=DELETE",
            "X-HTTP-Method=DELETE",
            "_method=DELETE",
            "httpMethod=DELETE",
            "$httpMethod=DELETE",
        ),
    ),
    "jira": (
        *(
            "expand=changelog",
            "properties=*all",
            "updateHistory=true",
            "os_authType=basic",
            "fields=summary&expand=operations",
        ),
        *("_method=DELETE", "jwt=x", "EXPAND=changelog", "fields[]=a", "atl_token=x"),
    ),
    "contacts": (
        *("associations=deals", "associations=companies,tickets", "Associations=deals", "associations[]=deals"),
        *("hapikey=x", "properties=email&associations=deals", "portalId=1", "_method=DELETE", "propertyMode=all"),
    ),
    "box": (
        *("fields=shared_link", "fields=name,permissions", "fields=watermark_info", "fields=name&fields=shared_link"),
        *(
            "Fields=shared_link",
            "fields[]=shared_link",
            "fields=name%2Cshared_link",
            "representations=x",
            "access_token=x",
        ),
        *("fields=name;fields=shared_link", "fields=lock", "fields=metadata.global.properties", "fields= shared_link"),
    ),
    "box folders": (
        "fields=shared_link",
        "fields=item_collection",
        "fields=folder_upload_email",
        "expand=x",
        "shared_link=x",
    ),
}
PLACES = {
    "mail": "/me/messages",
    "jira": "/ex/jira/1/rest/api/2/issue/A-1",
    "contacts": "/crm/v3/objects/contacts/1",
    "box": "/2.0/files/1",
    "box folders": "/2.0/folders/0",
}
_DEAL = [{"to": {"id": 1}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 214}]}]
_SEARCH = "/crm/v3/objects/contacts/search"
BODIES: dict[str, tuple[str, str, object]] = {
    "a draft that points at a file": (
        "drafts",
        "/me/messages",
        {"attachments": [{"name": "a", "sourceUrl": "https://x"}]},
    ),
    "a draft that holds another item": (
        "drafts",
        "/me/messages",
        {"attachments": [{"name": "a", "item": {"id": "1"}}]},
    ),
    "a draft with a binding": ("drafts", "/me/messages", {"parentFolder@odata.bind": "https://graph.microsoft.com/x"}),
    "a draft in capitals": ("drafts", "/me/messages", {"Attachments": [{"sourceUrl": "https://x"}]}),
    "a mail that points at a file": (
        "sending",
        "/me/sendMail",
        {"message": {"attachments": [{"sourceUrl": "https://x"}]}},
    ),
    "a mail with two spellings": ("sending", "/me/sendMail", {"message": {}, "MESSAGE": {"attachments": []}}),
    "a mail as another kind of thing": ("sending", "/me/sendMail", {"message": {"item": {}}, "comment": "x"}),
    "a file moved to another drive": (
        "files",
        "PATCH /me/drive/items/1",
        {"parentReference": {"driveId": "b!1", "id": "2"}},
    ),
    "a file moved by a path": ("files", "PATCH /me/drive/items/1", {"parentReference": {"path": "/drives/b!1/root:"}}),
    "a file from an address": (
        "files",
        "PATCH /me/drive/items/1",
        {"@microsoft.graph.sourceUrl": "http://169.254.169.254/"},
    ),
    "a file that is somebody else's": ("files", "PATCH /me/drive/items/1", {"remoteItem": {"id": "x"}}),
    "a file with permissions": ("files", "PATCH /me/drive/items/1", {"permissions": [{"roles": ["write"]}]}),
    "a comment for customers": (
        "jira writing",
        "/ex/jira/1/rest/api/2/issue/A-1/comment",
        {"body": "x", "jsdPublic": True},
    ),
    "a comment by another": (
        "jira writing",
        "/ex/jira/1/rest/api/2/issue/A-1/comment",
        {"body": "x", "author": {"key": "y"}},
    ),
    "a Notion search with more": ("notion", "/search", {"query": "x", "in_trash": True}),
    "SOQL in a search": (
        "salesforce",
        "/v63.0/parameterizedSearch",
        {"q": "x", "sobjects": [{"name": "User", "where": "Id != null"}]},
    ),
    "a search of other sites": ("salesforce", "/v63.0/parameterizedSearch", {"q": "x", "netIds": ["1"]}),
    "a search that tracks": ("salesforce", "/v63.0/parameterizedSearch", {"q": "x", "updateTracking": True}),
    "a task with a nested record": (
        "salesforce",
        "/v63.0/sobjects/Task",
        {"Subject": "x", "What": {"attributes": {"type": "Case"}}},
    ),
    "a task with an upload": ("salesforce", "/v63.0/sobjects/Task", {"Subject": "x", "VersionData": "eA=="}),
    "contacts of a deal": (
        *("contacts", _SEARCH),
        {"filterGroups": [{"filters": [{"propertyName": "associations.deal", "operator": "EQ", "value": "1"}]}]},
    ),
    "contacts of a deal, nested": (
        *("contacts", _SEARCH),
        {"filterGroups": [[{"filters": [[{"propertyName": "associations.deal", "operator": "EQ", "value": "1"}]]}]]},
    ),
    "contacts with what belongs to them": ("contacts", _SEARCH, {"query": "x", "associations": ["deals"]}),
    "a note on a deal": (
        "notes",
        "/crm/v3/objects/notes",
        {"properties": {"hs_note_body": "x"}, "associations": _DEAL},
    ),
    "a note on nothing": ("notes", "/crm/v3/objects/notes", {"properties": {"hs_note_body": "x"}}),
    "a note with a file": (
        *("notes", "/crm/v3/objects/notes"),
        {"properties": {"hs_attachment_ids": "1"}, "associations": HONEST["notes"][2]["associations"]},
    ),
    "what others share": (
        "dropbox",
        "/files/list_folder",
        {"path": "", "shared_link": {"url": "https://www.dropbox.com/x"}},
    ),
    "who shares a file": ("dropbox", "/files/list_folder", {"path": "", "include_has_explicit_shared_members": True}),
    "properties of files": ("dropbox", "/files/get_metadata", {"path": "/a", "include_property_groups": {".tag": "x"}}),
    "a batch of arguments": ("dropbox", "/files/list_folder", [{"path": ""}, {"path": "/b"}]),
    "a method in the body": ("notion", "/search", {"query": "x", "_method": "PATCH"}),
    "an HTTP method in the body": ("dropbox", "/files/list_folder", {"path": "", "httpMethod": "DELETE"}),
    "a credential in the body": ("salesforce", "/v63.0/parameterizedSearch", {"q": "x", "access_token": "y"}),
}
RAW_BODIES = {
    "a member twice": ("notion", "/search", JSON, '{"query":"x","query":"y"}'),
    "a member twice, escaped": ("notion", "/search", JSON, '{"query":"x","\\u0071uery":"y","in_trash":true}'),
    "JSON as text": (
        "dropbox",
        "/files/list_folder",
        "text/plain; charset=dropbox-cors-hack",
        '{"path":"","shared_link":{}}',
    ),
    "JSON as bytes": ("dropbox", "/files/list_folder", "application/octet-stream", '{"path":"","shared_link":{}}'),
    "JSON as a form": ("notion", "/search", FORM, '{"query":"x","in_trash":true}'),
    "a form for JSON": ("notion", "/search", FORM, urlencode({"query": "x", "in_trash": "true"})),
    "UTF-16": ("notion", "/search", JSON + "; charset=utf-16", '{"query":"x"}'),
    "XML": ("salesforce", "/v63.0/parameterizedSearch", "application/xml", "<q>x</q>"),
    "MIME": ("sending", "/me/sendMail", "text/plain", "RnJvbTogYQ=="),
    "a type within a type": ("notion", "/search", "application/json, text/plain", '{"in_trash":true}'),
    "multipart": ("box", "PUT /2.0/files/1", "multipart/form-data; boundary=a", "--a--"),
    "a byte order mark": ("notion", "/search", JSON, '\ufeff{"query":"x"}'),
    "JSON that never ends": ("notion", "/search", JSON, "[" * 20_000),
}
HEADERS = {
    "what others share at Box": ("box", "BoxApi", "shared_link=https://app.box.com/s/x"),
    "another user at Box": ("box", "As-User", "1"),
    "representations at Box": ("box", "X-Rep-Hints", "[pdf]"),
    "arguments at Dropbox": ("dropbox", "Dropbox-API-Arg", '{"path":"/secret"}'),
    "another root at Dropbox": ("dropbox", "Dropbox-API-Path-Root", '{".tag":"root","root":"1"}'),
    "another member at Dropbox": ("dropbox", "Dropbox-API-Select-User", "dbmid:1"),
    "an admin at Dropbox": ("dropbox", "Dropbox-API-Select-Admin", "dbmid:1"),
    "advanced queries at Graph": ("mail", "ConsistencyLevel", "eventual"),
    "another mailbox at Graph": ("mail", "X-AnchorMailbox", "bob@example.com"),
    "sharing shown at Graph": ("mail", "Prefer", "hierarchicalsharing, redeemSharingLink"),
    "a migration at Graph": ("mail", "Prefer", 'x="a, Migration"'),
    "another version of Notion": ("notion", "Notion-Version", "2099-01-01"),
    "assignment rules at Salesforce": ("salesforce", "Sforce-Auto-Assign", "FALSE"),
    "call options at Salesforce": ("salesforce", "Sforce-Call-Options", "client=x"),
    "no check of forgery at Atlassian": ("jira writing", "X-Atlassian-Token", "no-check"),
    "experiments at Atlassian": ("jira", "X-ExperimentalApi", "opt-in"),
    "another address": ("jira", "X-Original-URL", "/ex/jira/1/rest/api/2/user"),
    "a rewritten address": ("contacts", "X-Rewrite-URL", "/crm/v3/objects/deals/1"),
}
OVERRIDES = (
    *("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X_HTTP_METHOD_OVERRIDE", "X-HTTP-Verb"),
    *("X-RestLi-Method", "X-Override-Method", "HTTP-Method", "Method"),
)


async def ready(target: Target, name: str) -> Handle:
    provider, api, scope = NARROW[name]
    key = f"handle {name}"
    if not isinstance(target.kept.get(key), Handle):
        connected = target.kept.setdefault("narrow", set())
        assert isinstance(connected, set)
        if provider not in connected:
            await target.connect(target.alice, provider)
            connected.add(provider)  # pyright: ignore[reportUnknownMemberType] -- of texts
        made = await handle(target, provider, scope)
        target.kept[key] = Handle(target, made.base.rpartition("/")[0] + "/" + api, made.value)
    found = target.kept[key]
    assert isinstance(found, Handle)
    return found


def arrivals(target: Target, name: str) -> int:
    """Calls that reached an API of this provider."""
    provider = NARROW[name][0]
    return sum(one.path.startswith(f"/{provider}/api/") for one in target.provider.arrivals)


async def raw(one: Handle, method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """Send a request exactly as written; return the answer."""
    absolute = path.startswith("http://")
    line = f"{method} {path if absolute else one.path + path} HTTP/1.1"
    head = [line, f"Host: {one.target.host}", "Connection: close", f"Authorization: Bearer {one.value}", *headers]
    head += [f"Content-Length: {len(body)}"] if body or method not in {"GET", "OPTIONS"} else []
    return await talk(one.target.place.port, ("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + body, seconds=5)


async def check_refused(target: Target, name: str, method: str, path: str, *headers: str, body: bytes = b"") -> None:
    """Check that the call is refused and nothing reaches the provider."""
    one = await ready(target, name)
    before = arrivals(target, name)
    said = await raw(one, method, path, *headers, body=body)
    assert said[9:10] == b"4", said
    assert arrivals(target, name) == before


@pytest.mark.parametrize("name", HONEST)
async def test_what_the_permission_is_for_passes(target: Target, name: str) -> None:
    """The twin of all attacks below."""
    one = await ready(target, name)
    before = arrivals(target, name)
    method, path, body = HONEST[name]
    answer = await one.call(method, path, **({} if body is None else {"json": body}))
    assert "token-vault-refusal" not in answer.headers, answer.text
    assert arrivals(target, name) == before + 1


async def test_the_version_that_an_sdk_adds_leads_no_further(target: Target) -> None:
    one = await ready(target, "mail")
    for path in ("/me/messages", "/v1.0/me/messages"):
        answer = await one.call("GET", path)
        assert "token-vault-refusal" not in answer.headers, answer.text
    plain, versioned = target.provider.arrivals[-2:]
    assert plain.path == versioned.path


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, paths in SPELLINGS.items() for path in paths])
async def test_no_spelling_of_a_path_reads_more(target: Target, name: str, path: str) -> None:
    await check_refused(target, name, "GET", path)


@pytest.mark.parametrize(("name", "call"), [(name, call) for name, calls in WRITES.items() for call in calls])
async def test_nothing_else_is_done(target: Target, name: str, call: str) -> None:
    method, _, path = call.partition(" ")
    await check_refused(target, name, method, path, f"Content-Type: {JSON}", body=b"" if method == "GET" else b"{}")


@pytest.mark.parametrize(("name", "query"), [(name, query) for name, queries in QUERIES.items() for query in queries])
async def test_no_parameter_shows_more(target: Target, name: str, query: str) -> None:
    await check_refused(target, name, "GET", f"{PLACES[name]}?{query.replace(' ', '%20')}")


@pytest.mark.parametrize("attack", BODIES)
async def test_no_member_of_a_body_reaches_more(target: Target, attack: str) -> None:
    name, call, body = BODIES[attack]
    one = await ready(target, name)
    before = arrivals(target, name)
    method, _, path = call.rpartition(" ")
    answer = await one.call(method or "POST", path, json=body)
    assert answer.status_code in {400, 403, 415} and "token-vault-refusal" in answer.headers, answer.text
    assert arrivals(target, name) == before


@pytest.mark.parametrize("attack", RAW_BODIES)
async def test_no_form_of_a_body_hides_what_it_asks(target: Target, attack: str) -> None:
    name, call, kind, body = RAW_BODIES[attack]
    method, _, path = call.rpartition(" ")
    await check_refused(target, name, method or "POST", path, f"Content-Type: {kind}", body=body.encode())


async def test_a_chunked_body_is_read_before_anything_is_sent(target: Target) -> None:
    one = await ready(target, "dropbox")
    before = arrivals(target, "dropbox")
    body = json.dumps({"path": "", "shared_link": {"url": "https://x"}})
    chunks = f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"
    head = (
        f"POST {one.path}/files/list_folder HTTP/1.1\r\nHost: {target.host}\r\nConnection: close\r\n"
        f"Authorization: Bearer {one.value}\r\nContent-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    said = await talk(target.place.port, (head + chunks).encode(), seconds=5)
    assert said[9:12] == b"403", said
    assert arrivals(target, "dropbox") == before


async def test_a_body_too_long_to_be_read_is_not_sent(target: Target) -> None:
    one = await ready(target, "drafts")
    before = arrivals(target, "drafts")
    answer = await one.call("POST", "/me/messages", json={"subject": "x" * 1_100_000, "extensions": []})
    assert answer.headers.get("token-vault-refusal") == "unknown_parameter", answer.text
    assert arrivals(target, "drafts") == before


@pytest.mark.parametrize("attack", HEADERS)
async def test_a_header_that_asks_for_more_stays_behind(target: Target, attack: str) -> None:
    name, header, value = HEADERS[attack]
    one = await ready(target, name)
    method, path, body = HONEST[name]
    answer = await one.call(method, path, headers={header: value}, **({} if body is None else {"json": body}))
    assert "token-vault-refusal" not in answer.headers, answer.text
    sent: Mapping[str, str] = target.provider.arrivals[-1].headers
    assert value not in sent.get(header.lower(), "")


@pytest.mark.parametrize("header", OVERRIDES)
@pytest.mark.parametrize("name", ["drafts", "jira writing", "notion", "salesforce", "notes", "dropbox"])
async def test_no_header_changes_the_method(target: Target, name: str, header: str) -> None:
    one = await ready(target, name)
    before = arrivals(target, name)
    method, path, body = HONEST[name]
    answer = await one.call(method, path, headers={header: "DELETE"}, json=body)
    assert answer.headers.get("token-vault-refusal") == "method_override", answer.text
    assert arrivals(target, name) == before


async def test_arguments_in_a_header_do_not_choose_a_file(target: Target) -> None:
    one = await ready(target, "dropbox reading")
    answer = await one.call("POST", "/files/download", headers={"dropbox-api-arg": '{"path":"/secret"}'})
    assert "token-vault-refusal" not in answer.headers, answer.text
    assert "dropbox-api-arg" not in target.provider.arrivals[-1].headers
    before = arrivals(target, "dropbox reading")
    for query in ("arg=%7B%22path%22%3A%22/secret%22%7D", "reject_cors_preflight=true", "authorization=Bearer%20x"):
        said = await raw(one, "POST", f"/files/download?{query}")
        assert said[9:10] == b"4", said
    assert arrivals(target, "dropbox reading") == before
