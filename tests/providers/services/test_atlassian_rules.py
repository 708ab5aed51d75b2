"""Rules of Jira and Confluence: what Atlassian's documents accept, without what shows or destroys more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from providers.api.rules import Call, Payload, allows
from providers.definitions.catalog import load_catalog
from tests.generating import openapi

ATLASSIAN = load_catalog().provider("atlassian")
JIRA, WIKI = "/ex/jira/1/rest/api/3", "/ex/confluence/1/wiki"
COMMENT = {"type": "doc", "version": 1, "content": []}


def is_let_through(
    method: str, path: str, *scopes: str, granted: frozenset[str] | None = None, query: str = "", body: object = None
) -> bool:
    names = frozenset(query.split())
    members = body if isinstance(body, dict) else {}
    call = Call("main", method, path, dict.fromkeys(names, "x") | members, Payload(names, members))
    return allows(ATLASSIAN, call, frozenset(scopes), granted=granted)


@pytest.mark.parametrize(
    ("method", "path", "least", "other"),
    [
        ("GET", f"{JIRA}/issue/A-1/comment", "read:jira-work", "write:jira-work"),
        ("POST", f"{JIRA}/search/jql", "read:jira-work", "read:jira-user"),
        ("POST", f"{JIRA}/issue/A-1/transitions", "write:jira-work", "read:jira-work"),
        ("DELETE", f"{JIRA}/issueLink/1", "write:jira-work", "read:jira-work"),
        ("GET", f"{JIRA}/user/search", "read:jira-user", "read:jira-work"),
        ("GET", f"{WIKI}/api/v2/pages/1", "read:page:confluence", "read:confluence-content.all"),
        ("PUT", f"{WIKI}/api/v2/pages/1", "write:page:confluence", "read:page:confluence"),
        ("GET", f"{WIKI}/api/v2/pages/1/footer-comments", "read:comment:confluence", "read:page:confluence"),
        ("POST", f"{WIKI}/api/v2/footer-comments", "write:comment:confluence", "write:page:confluence"),
        ("GET", f"{WIKI}/api/v2/spaces", "read:space:confluence", "read:page:confluence"),
        ("GET", f"{WIKI}/rest/api/search", "search:confluence", "read:page:confluence"),
        ("POST", f"{WIKI}/rest/api/content/1/label", "write:confluence-content", "write:page:confluence"),
    ],
)
def test_a_call_needs_the_scope_that_atlassian_s_document_names(method: str, path: str, least: str, other: str) -> None:
    assert is_let_through(method, path, least)
    assert not is_let_through(method, path, other)


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/board", "read:board-scope:jira-software read:project:jira"),
        ("GET", "/board/1/issue", "read:board-scope:jira-software read:issue-details:jira"),
        ("GET", "/sprint/1/issue", "read:sprint:jira-software read:issue-details:jira read:jql:jira"),
        ("POST", "/sprint/1/issue", "write:sprint:jira-software"),
        ("POST", "/backlog/issue", "write:board-scope:jira-software"),
    ],
)
def test_a_call_of_a_board_needs_all_scopes_that_its_document_names(method: str, path: str, needed: str) -> None:
    path, scopes = f"/ex/jira/1/rest/agile/1.0{path}", frozenset(needed.split())
    assert is_let_through(method, path, *scopes)
    for one in scopes:
        assert not is_let_through(method, path, *(scopes - {one}), "read:jira-work", "write:jira-work")


@pytest.mark.parametrize(
    ("method", "path", "near"),
    [
        ("DELETE", f"{JIRA}/issue/A-1", f"{JIRA}/issueLink/1"),
        ("PUT", f"{JIRA}/issue/archive", f"{JIRA}/issue/A-1"),
        ("PUT", f"{JIRA}/issue/unarchive", f"{JIRA}/issue/A-1"),
        ("DELETE", f"{JIRA}/issue/A-1/comment/2", f"{JIRA}/issue/A-1/remotelink/2"),
        ("DELETE", f"{JIRA}/issue/A-1/worklog", f"{JIRA}/issue/A-1/watchers"),
        ("DELETE", f"{JIRA}/attachment/1", f"{JIRA}/issueLink/1"),
        ("DELETE", f"{WIKI}/api/v2/pages/1", f"{WIKI}/rest/api/content/1/label/x"),
        ("POST", f"{JIRA}/bulk/issues/delete", f"{JIRA}/issue"),
        ("POST", f"{JIRA}/issue/A-1/notify", f"{JIRA}/issue/A-1/comment"),  # mail to anybody
        ("POST", f"{JIRA}/issue/A-1/attachments", f"{JIRA}/issue/A-1/comment"),
        ("DELETE", "/ex/jira/1/rest/agile/1.0/board/1", f"{JIRA}/issueLink/1"),
        ("POST", "/ex/jira/1/rest/agile/1.0/board", "/ex/jira/1/rest/agile/1.0/board/1/issue"),
        ("POST", f"{JIRA}/filter", f"{JIRA}/issue"),
        ("POST", f"{JIRA}/expression/evaluate", f"{JIRA}/search/jql"),
        ("POST", f"{JIRA}/webhook", f"{JIRA}/issue"),
        ("POST", f"{WIKI}/api/v2/pages/1/redact", f"{WIKI}/api/v2/pages"),
        ("PUT", f"{WIKI}/rest/api/content/1/restriction", f"{WIKI}/api/v2/pages/1"),
        ("GET", f"{WIKI}/api/v2/spaces/1/permissions", f"{WIKI}/api/v2/spaces/1/pages"),
        ("GET", f"{JIRA}/attachment/content/1", f"{JIRA}/attachment/1"),  # leads to a URL that needs no token
        ("GET", f"{JIRA}/user/properties", f"{JIRA}/user"),
        ("GET", f"{JIRA}/groups/picker", f"{JIRA}/user/picker"),
        ("GET", f"{JIRA}/permissionscheme/1", f"{JIRA}/priority/1"),
    ],
)
def test_a_call_that_the_titles_of_scopes_do_not_describe_has_no_rule(method: str, path: str, near: str) -> None:
    assert not is_let_through(method, path, *ATLASSIAN.all_scopes)
    assert is_let_through(method, near, *ATLASSIAN.all_scopes)


@pytest.mark.parametrize(
    ("path", "scope", "more", "plain"),
    [
        (f"{JIRA}/issue/A-1", "read:jira-work", "expand", "fields"),
        (f"{JIRA}/issue/A-1", "read:jira-work", "properties", "fields"),
        (f"{JIRA}/issue/A-1", "read:jira-work", "updateHistory", "failFast"),
        (f"{JIRA}/user", "read:jira-user", "expand", "accountId"),
        (f"{WIKI}/api/v2/pages/1", "read:page:confluence", "include-labels", "body-format"),
        (f"{WIKI}/api/v2/spaces/1", "read:space:confluence", "include-permissions", "description-format"),
        (f"{WIKI}/rest/api/search", "search:confluence", "expand", "cql"),
    ],
)
def test_a_parameter_shows_no_related_object_where_the_token_can_do_more(
    path: str, scope: str, more: str, plain: str
) -> None:
    for query, is_allowed in ((more, False), (plain, True)):
        assert is_let_through("GET", path, scope, granted=ATLASSIAN.all_scopes, query=query) is is_allowed
        assert is_let_through("GET", path, scope, query=query)


@pytest.mark.parametrize(
    ("path", "scope", "body", "more"),
    [
        (f"{JIRA}/issue/A-1/comment", "write:jira-work", {"body": COMMENT}, {"author": {"accountId": "1"}}),
        (f"{JIRA}/issue/A-1/comment", "write:jira-work", {"body": COMMENT}, {"jsdPublic": True}),
        (f"{JIRA}/issue/A-1/worklog", "write:jira-work", {"timeSpent": "1h"}, {"author": {"accountId": "1"}}),
        (f"{JIRA}/search/jql", "read:jira-work", {"jql": "a", "fields": ["*all"]}, {"expand": "changelog"}),
    ],
)
def test_a_body_has_what_clients_send_where_the_token_can_do_more(
    path: str, scope: str, body: Mapping[str, object], more: Mapping[str, object]
) -> None:
    for one, is_allowed in ((body, True), ({**body, **more}, False)):
        assert is_let_through("POST", path, scope, granted=ATLASSIAN.all_scopes, body=one) is is_allowed
        assert is_let_through("POST", path, scope, body=one)


def test_the_scopes_that_confluence_stands_for_find_and_read_pages() -> None:
    provider, scopes = load_catalog().resolve("confluence")
    assert provider == ATLASSIAN
    for path in (f"{WIKI}/rest/api/search", f"{WIKI}/api/v2/pages/1"):
        assert is_let_through("GET", path, *scopes)
    assert not is_let_through("PUT", f"{WIKI}/api/v2/pages/1", *scopes)


@pytest.mark.parametrize("ids", [["A-1"], "A-1", [], None])
def test_no_issue_is_archived_in_the_place_of_one_that_is_changed(ids: object) -> None:
    for version in (2, 3):
        for action in ("archive", "unarchive"):
            path = f"/ex/jira/1/rest/api/{version}/issue/{action}"
            assert not is_let_through("PUT", path, "write:jira-work", body={"issueIdsOrKeys": ids})
        assert is_let_through("PUT", f"/ex/jira/1/rest/api/{version}/issue/A-1", "write:jira-work", body={"fields": {}})


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PUT", "/A-1"), ("POST", "/A-1/transitions")])
@pytest.mark.parametrize("kind", ["comment", "worklog"])
def test_no_comment_or_worklog_is_deleted_with_a_change_of_its_issue(
    version: int, method: str, path: str, kind: str
) -> None:
    scope = "write:jira-work"
    for granted in (frozenset({scope}), ATLASSIAN.all_scopes):
        for change, is_allowed in (({"remove": {"id": "1"}}, False), ({"add": {"body": "Hi"}}, True)):
            body = {"update": {kind: [{"add": {"body": "Hi"}}, change]}}
            there = f"/ex/jira/1/rest/api/{version}/issue{path}"
            assert is_let_through(method, there, scope, granted=granted, body=body) is is_allowed


def test_a_page_stays_its_owner_s_and_is_not_deleted_by_its_status() -> None:
    path, scope = f"{WIKI}/api/v2/pages/1", "write:page:confluence"
    page = {"id": "1", "status": "current", "title": "x", "body": {}, "version": {"number": 2}}
    for granted in (frozenset({scope}), ATLASSIAN.all_scopes):
        assert is_let_through("PUT", path, scope, granted=granted, body=page)
        assert not is_let_through("PUT", path, scope, granted=granted, body={**page, "ownerId": "other"})
        assert not is_let_through("PUT", path, scope, granted=granted, body={**page, "status": "trashed"})
        for status, is_allowed in (("draft", True), ("trashed", False)):
            title: Mapping[str, object] = {"title": "x", "status": status}
            assert is_let_through("PUT", f"{path}/title", scope, granted=granted, body=title) is is_allowed


def test_jira_s_second_version_has_the_rules_of_its_third() -> None:
    third = [one for one in ATLASSIAN.rules if "/rest/api/3/" in one.path]
    second = [one for one in ATLASSIAN.rules if "/rest/api/2/" in one.path]
    assert [one.model_copy(update={"path": one.path.replace("/api/3/", "/api/2/")}) for one in third] == second
    assert len(second) > 60


# The generator


def test_documents_of_one_service_are_read_together_and_their_paths_placed(tmp_path: Path) -> None:
    issue = {"id": {"readOnly": True}, "fields": {}}
    write = {
        "security": [{"basicAuth": []}, {"OAuth2": ["write:jira-work"]}],
        "parameters": [{"name": "expand", "in": "query"}, {"name": "notifyUsers", "in": "query"}],
        "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Issue"}}}},
    }
    jira = {
        "paths": {
            "/rest/api/3/issue": {"post": write},
            "/rest/api/3/issue/{id}": {"put": write, "delete": write},
            "/rest/api/3/webhook": {"post": write},
        },
        "components": {"schemas": {"Issue": {"properties": issue}}},
    }
    wiki = {"paths": {"/pages": {"get": {"security": [{"oAuthDefinitions": ["read:page:confluence"]}]}}}}
    for name, content in (("jira", jira), ("wiki", wiki)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    document = openapi.Document(tmp_path / "jira.json", tmp_path / "wiki.json")
    kept = {"update/comment/remove": "", "update/worklog/remove": ""}
    written = {"scopes": ["write:jira-work"], "where": kept, "query": ["notifyUsers"], "body": ["fields"]}
    page = {"api": "main", "method": "GET", "path": "/ex/confluence/{}/wiki/api/v2/pages"}
    assert list(openapi.rules("atlassian", document)) == [
        *(
            {"api": "main", "method": method, "path": f"/ex/jira/{{}}/rest/api/{version}/{below}", **written}
            for method, below in (("POST", "issue"), ("PUT", "issue/{}"))
            for version in (3, 2)
        ),
        {**page, "scopes": ["read:page:confluence"]},
    ]
