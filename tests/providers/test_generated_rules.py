"""Generated rules: still what the source says, complete for it, and never laxer than Google's own table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from providers.api.rules import Call, Payload, allows
from providers.definitions.catalog import check_file, load_catalog, read_provider
from providers.simulator.app import GOOGLE_APIS
from tests.generating import github, google
from tests.generating.google import placeholders
from tests.providers.test_providers_catalog import GOOD, write_file

GOOGLE = load_catalog().provider("google")
GITHUB = load_catalog().provider("github")
REST = tuple(rule for rule in GITHUB.rules if rule.api == "rest")  # git has no operations
KNOWN = frozenset(GOOGLE.scopes)
AUTH = google.AUTH


def fill_path(path: str) -> str:
    """A path as a client would send it."""
    return path.replace("{+}", "abc/def").replace("{}", "abc")


def test_google_s_rules_are_what_its_discovery_documents_say() -> None:
    is_current = google.TARGET.read_text(encoding="utf-8") == google.file_text()
    assert is_current, "google.toml or the library changed: run python -m tests.generating.google"
    source = json.loads(google.TARGET.read_text(encoding="utf-8"))["source"]
    assert source["package"].startswith("google-api-python-client 2.")
    assert set(google.DOCUMENTS) <= set(source)
    generated = [rule for rule in GOOGLE.rules if rule.api != "ads"]
    assert len(generated) == sum(1 for _ in google.rules(KNOWN)) > 600
    told = {(rule.api, rule.path) for rule in generated if rule.tells_secrets}
    assert told == google.SECRETS
    assert {(rule.api, rule.path) for rule in generated} >= google.MIXED


def test_a_scope_that_only_identifies_the_account_allows_no_call_of_google() -> None:
    """The People API accepts the address's scope, for that address; any token may have it."""
    person = Call("people", "GET", "/v1/people/c1")
    assert allows(GOOGLE, person, frozenset({f"{AUTH}contacts.readonly"}))
    assert not allows(GOOGLE, person, GOOGLE.scope.identity)
    assert all(rule.scopes.isdisjoint(GOOGLE.scope.identity) for rule in GOOGLE.rules)


def test_a_single_scope_is_let_through_exactly_where_google_accepts_it_or_one_that_it_includes() -> None:
    operations: dict[tuple[str, str, str], frozenset[str]] = {}
    for api, method, path, scopes in google.accepted_scopes(KNOWN):
        operations[api, method, path] = operations.get((api, method, path), frozenset()) | scopes
    for (api, method, path), scopes in operations.items():
        call = Call(api, method, fill_path(path))
        for scope in KNOWN:
            reach = {scope, *GOOGLE.covers.get(scope, ())}
            assert allows(GOOGLE, call, frozenset({scope})) == bool(reach & scopes), (call, scope)


def test_a_scope_includes_another_only_if_google_accepts_it_wherever_it_accepts_that() -> None:
    where: dict[str, set[tuple[str, str, str]]] = {}
    for api, method, path, scopes in google.accepted_scopes(KNOWN):
        for scope in scopes:
            where.setdefault(scope, set()).add((api, method, path))
    for wide, narrow in ((wide, narrow) for wide, covered in GOOGLE.covers.items() for narrow in covered):
        assert where.get(narrow, set()) <= where.get(wide, set()), (wide, narrow)


def test_the_simulator_s_own_table_of_scopes_agrees() -> None:
    """It was written independently, from the documentation; it doesn't cover parts of a calendar or drive."""
    for method, path, known in GOOGLE_APIS:
        below = "/".join(path.split("/")[4:])
        call = Call(known.api, method, placeholders(below).replace("{}", "abc"))
        ours = {scope for scope in KNOWN if allows(GOOGLE, call, frozenset({scope}))}
        assert ours - google.PARTIAL == (known.scopes & KNOWN) - google.PARTIAL, call


def test_of_two_rules_that_fit_the_one_that_leaves_less_open_decides() -> None:
    trash, some_file = Call("drive", "DELETE", "/files/trash"), Call("drive", "DELETE", "/files/abc")
    part = frozenset({f"{AUTH}drive.file"})
    assert allows(GOOGLE, some_file, part)
    assert not allows(GOOGLE, trash, part)
    assert allows(GOOGLE, trash, frozenset({f"{AUTH}drive"}))


@pytest.mark.parametrize(
    ("part", "whole", "call"),
    [
        ("drive.file", "drive", Call("drive", "GET", "/files")),
        ("drive.metadata.readonly", "drive.readonly", Call("drive", "GET", "/files/abc", {"alt": "media"})),
        ("gmail.metadata", "gmail.readonly", Call("gmail", "GET", "/users/me/messages/abc")),
        ("calendar.events.owned.readonly", "calendar", Call("calendar", "GET", "/calendars/abc/events")),
    ],
)
def test_a_token_that_reaches_everything_is_not_lent_to_who_may_reach_a_part(part: str, whole: str, call: Call) -> None:
    caller, token = frozenset({AUTH + part}), frozenset({AUTH + whole})
    assert not allows(GOOGLE, call, caller, granted=token | caller)
    assert allows(GOOGLE, call, caller, granted=caller)
    assert allows(GOOGLE, call, token, granted=token | caller)


@pytest.mark.parametrize("path", ["/v1/spaces/abc/spaceEvents", "/v1/spaces/abc/spaceEvents/abc"])
def test_where_each_scope_selects_what_the_answer_shows_no_other_is_in_the_token(path: str) -> None:
    call = Call("chat", "GET", path)
    spaces, messages = frozenset({f"{AUTH}chat.spaces.readonly"}), frozenset({f"{AUTH}chat.messages.readonly"})
    for one in (spaces, messages):
        assert allows(GOOGLE, call, one, granted=one)
        assert not allows(GOOGLE, call, one, granted=spaces | messages)
    assert allows(GOOGLE, call, spaces | messages, granted=spaces | messages)


_ADD_DATA_SOURCE = {"requests": [{"addDataSource": {"dataSource": {"spec": {"bigQuery": {"projectId": "p"}}}}}]}
_QUERY = {"configuration": {"query": {"query": "SELECT 1"}}}
_DRIVE = ("drive", "drive.appdata", "drive.file", "drive.metadata", "drive.metadata.readonly", "drive.readonly")
_WITH_DRIVE = (*_DRIVE, "spreadsheets", "spreadsheets.readonly")
_BATCH = "/v4/spreadsheets/abc:batchUpdate"


@pytest.mark.parametrize(
    ("scope", "call", "others"),
    [
        ("bigquery", Call("bigquery", "POST", "/projects/p/jobs", payload=Payload(body=_QUERY)), _WITH_DRIVE),
        ("bigquery", Call("bigquery", "POST", "/projects/p/queries"), _WITH_DRIVE),
        ("bigquery", Call("bigquery", "GET", "/projects/p/queries/j"), _WITH_DRIVE),
        ("bigquery", Call("bigquery", "POST", "/projects/p/datasets/d/tables"), _WITH_DRIVE),
        ("bigquery", Call("bigquery_upload", "POST", "/projects/p/jobs", payload=Payload(is_unread=True)), _WITH_DRIVE),
        (
            "spreadsheets",
            Call("sheets", "POST", _BATCH, payload=Payload(body=_ADD_DATA_SOURCE)),
            (*_DRIVE, "bigquery"),
        ),
        (
            "spreadsheets",
            Call("sheets", "POST", "/v4/spreadsheets", payload=Payload(body={"dataSources": [{}]})),
            ("drive.readonly", "bigquery"),
        ),
        (
            "drive.file",
            Call("sheets", "POST", _BATCH, payload=Payload(body=_ADD_DATA_SOURCE)),
            ("drive", "drive.readonly", "spreadsheets", "bigquery"),
        ),
    ],
)
def test_a_call_that_reaches_another_service_s_data_gets_no_token_with_that_service_s_scope(
    scope: str, call: Call, others: tuple[str, ...]
) -> None:
    caller, unrelated = frozenset({AUTH + scope}), frozenset({f"{AUTH}tasks.readonly"})
    assert allows(GOOGLE, call, caller, granted=caller)
    assert allows(GOOGLE, call, caller, granted=caller | unrelated)
    for other in others:
        both = caller | {AUTH + other}
        assert not allows(GOOGLE, call, caller, granted=both), other
        assert allows(GOOGLE, call, both, granted=both), other


def test_every_rule_of_bigquery_names_all_scopes_of_drive_and_sheets() -> None:
    ours = [rule for rule in GOOGLE.rules if rule.api in {"bigquery", "bigquery_upload"}]
    assert {rule.api for rule in ours} == {"bigquery", "bigquery_upload"}
    files = {scope for scope in KNOWN if scope.removeprefix(AUTH).split(".")[0] in {"drive", "spreadsheets"}}
    assert files == {AUTH + name for name in _WITH_DRIVE}
    assert all(rule.inseparable == files for rule in ours)


def test_a_token_that_may_also_write_is_lent_to_who_may_read_all() -> None:
    reader, writer = frozenset({f"{AUTH}drive.readonly"}), frozenset({f"{AUTH}drive"})
    assert allows(GOOGLE, Call("drive", "GET", "/files/abc"), reader, granted=writer)
    assert not allows(GOOGLE, Call("drive", "DELETE", "/files/abc"), reader, granted=writer)


@pytest.mark.parametrize("api", ["drive_upload", "gmail_upload"])
def test_uploads_have_their_rules_at_their_own_address(api: str) -> None:
    path = "/files" if api == "drive_upload" else "/users/me/messages/send"
    assert allows(GOOGLE, Call(api, "POST", path), frozenset({f"{AUTH}drive", f"{AUTH}gmail.send"}))
    assert not allows(GOOGLE, Call(api, "POST", path), frozenset({f"{AUTH}drive.readonly", f"{AUTH}gmail.readonly"}))


# GitHub


def _of_github() -> tuple[frozenset[str], dict[str, list[str]]]:
    lines = github.TARGET.read_text(encoding="utf-8").splitlines()[1:]
    operations = frozenset(line for line in lines if line.split()[0].isupper())
    permissions = {words[0]: words[1:] for line in lines if not (words := line.split())[0].isupper()}
    return operations, permissions


def test_every_rule_of_github_is_for_an_operation_that_exists() -> None:
    operations, _ = _of_github()
    assert len(operations) > 1000
    for rule in REST:
        for method in rule.method:
            path = rule.path.replace(".github/workflows/{+}", "{+}").replace("{+}", "{}")  # one part of the operation
            assert f"{method} {path}" in operations, rule


def test_a_path_of_several_segments_takes_in_no_other_operation() -> None:
    operations, _ = _of_github()
    long = [rule for rule in GITHUB.rules if "{+}" in rule.path]
    assert len(long) >= 3
    for rule in long:
        for method in rule.method:
            same = {f"{method} {rule.path.replace('{+}', again)}" for again in ("{}", "{}...{}")}  # two spellings
            others = {line for line in operations if line.startswith(f"{method} ")} - same
            assert not [line for line in others if rule.path_pattern.fullmatch(fill_path(line.partition(" ")[2]))], rule


def test_a_file_in_a_folder_is_read_and_changed_by_the_same_rule_and_nothing_climbs_out() -> None:
    reader = frozenset({"contents:read"})
    for path, is_let in (
        ("/repos/octo/hello/contents/README.md", True),
        ("/repos/octo/hello/contents/src/main.py", True),
        ("/repos/octo/hello/contents/src%2Fmain.py", True),
        ("/repos/octo/hello/contents/src/../../issues", False),
        ("/repos/octo/hello/contents/src/%2e%2e/x", False),
        ("/repos/octo/hello/contents//x", False),
        ("/repos/octo/hello/contents", False),
    ):
        assert allows(GITHUB, Call("rest", "GET", path), reader) == is_let, path
    assert not allows(GITHUB, Call("rest", "PUT", "/repos/octo/hello/contents/src/main.py"), reader)


def test_every_scope_of_github_is_a_permission_that_a_token_can_be_limited_to() -> None:
    _, permissions = _of_github()
    for scope in GITHUB.scopes:
        name, _, level = scope.partition(":")
        assert level in permissions[name], scope
        wider = "write" if level == "read" else None
        if wider and f"{name}:{wider}" in GITHUB.scopes:
            assert scope in GITHUB.covers[f"{name}:{wider}"]


def test_what_is_written_down_of_github_comes_out_of_its_document() -> None:
    document = {
        "info": {"version": "1.2.3"},
        "paths": {"/repos/{owner}/{repo}": {"get": {}, "delete": {}, "parameters": []}, "/user": {"get": {}}},
        "components": {"schemas": {"app-permissions": {"properties": {"issues": {"enum": ["read", "write"]}}}}},
    }
    head, *rest = github.file_text(document).splitlines()
    assert "@octokit/openapi 1.2.3" in head
    assert rest == ["issues read write", "DELETE /repos/{}/{}", "GET /repos/{}/{}", "GET /user"]
    package = Path(__file__).parent.parent / "node" / "node_modules" / "@octokit" / "openapi" / "generated"
    whole = package / "api.github.com.json"
    if whole.is_file():
        content = json.loads(whole.read_text())
        assert github.TARGET.read_text(encoding="utf-8") == github.file_text(content)
        assert github.ANSWERS.read_text(encoding="utf-8") == github.written_answers(content)


# Files that take rules from another file


def _with_rules(folder: Path, names: str, content: str | None) -> list[str]:
    path = write_file(folder, GOOD.replace("[hosts]", f"rules_from = {names}\n\n[hosts]", 1))
    (folder / "rules").mkdir(exist_ok=True)
    if content is not None:
        (folder / "rules" / "more.json").write_text(content, encoding="utf-8")
    return check_file(path)


def test_a_file_may_take_rules_from_another_beside_it(tmp_path: Path) -> None:
    rule = '{"rules": [{"api": "main", "method": "GET", "path": "/more", "scopes": ["read"]}]}'
    assert _with_rules(tmp_path, '["more"]', rule) == []
    unknown = rule.replace('"read"', '"never"')
    assert any("unknown scope 'never'" in line for line in _with_rules(tmp_path, '["more"]', unknown))
    assert _with_rules(tmp_path, '["more"]', rule) == []


def test_rules_of_another_file_share_their_texts(tmp_path: Path) -> None:
    rule = '{"api": "main", "method": "GET", "path": "%s", "scopes": ["read"]}'
    rules = ", ".join(rule % path for path in ("/one", "/two"))
    assert _with_rules(tmp_path, '["more"]', f'{{"rules": [{rules}]}}') == []
    one, two = (rule for rule in read_provider(tmp_path / "example.toml").rules if rule.path in {"/one", "/two"})
    assert one.api is two.api


@pytest.mark.parametrize(
    ("names", "content", "problem"),
    [
        ('["more"]', None, "can't read rules/more.json"),
        ('["more"]', "nonsense", "contains no rules"),
        ('["../more"]', '{"rules": []}', "isn't a file name"),
        ("[1]", '{"rules": []}', "isn't a file name"),
    ],
)
def test_rules_that_cannot_be_taken_are_said(tmp_path: Path, names: str, content: str | None, problem: str) -> None:
    (line,) = _with_rules(tmp_path, names, content)
    assert problem in line


def test_the_parameters_of_github_are_those_of_its_document_but_for_two_that_reach_more() -> None:
    """Nobody can vouch for parameters that the document doesn't name; those that only the document has are refused."""
    lines = github.PARAMETERS.read_text(encoding="utf-8").splitlines()[1:]
    official = {tuple(line.partition(" ?")[0].split()): line.partition(" ?")[2].split(" :") for line in lines}
    left_out: set[tuple[str, str]] = set()
    for rule in REST:
        path = rule.path.replace("{+}", "{}").replace("/.github/workflows", "")
        told = [official[method, path] for method in rule.method]
        query, body = ({name for one in told for name in one[place].split()} for place in (0, 1))
        assert rule.query == query, rule.path
        if rule.body == "any":
            assert (path, body) == ("/repos/{}/{}/issues/{}/labels", {"labels"})  # an array is accepted, too
            continue
        assert rule.body <= body, rule.path
        left_out |= {(path, name) for name in body - rule.body}
    assert left_out == {("/repos/{}/{}/releases", "discussion_category_name"), ("/repos/{}/{}/pulls", "issue")}


def test_no_rule_opens_a_channel_that_outlives_the_agent() -> None:
    paths = {rule.path for rule in GOOGLE.rules}
    assert not any(path.endswith("watch") for path in paths)
    assert "/channels/stop" in paths
