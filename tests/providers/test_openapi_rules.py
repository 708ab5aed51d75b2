"""Rules made from the OpenAPI documents that services publish: what the generator reads, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from providers.api.rules import Call, Payload, allows
from providers.definitions.catalog import SHELF, load_catalog
from tests.generating import openapi

CATALOG = load_catalog()
NAMES = tuple(name for name, one in openapi.SERVICES.items() if one.has_rules)


@pytest.mark.parametrize("name", NAMES)
def test_the_rules_say_where_they_come_from_and_no_reading_scope_writes(name: str) -> None:
    made = json.loads((SHELF / "rules" / f"{name}.json").read_text(encoding="utf-8"))
    assert made["source"]["document"].startswith(openapi.SERVICES[name].repository)
    provider = CATALOG.provider(name)
    assert len(provider.rules) == len(made["rules"]) >= 4
    for rule in provider.rules:
        if rule.method != ("GET",) and not rule.path.endswith("/search"):
            needed = rule.scopes if openapi.SERVICES[name].paths else rule.scopes | rule.needs
            assert not needed & provider.reading_scopes, rule
    if openapi.SERVICES[name].paths:
        return  # with the scopes that its file has, and whatever else may be connected
    unused = provider.scopes.keys() - {scope for rule in provider.rules for scope in (*rule.scopes, *rule.needs)}
    assert all(provider.scopes[scope].covers for scope in unused)  # only those that stand for many


@pytest.mark.parametrize(
    ("name", "call", "least", "other"),
    [
        ("asana", Call("main", "GET", "/tasks/12"), "tasks:read", "projects:read"),
        ("asana", Call("main", "POST", "/tasks"), "tasks:write", "tasks:read"),
        ("asana", Call("main", "DELETE", "/tasks/12"), "tasks:delete", "tasks:write"),
        ("digitalocean", Call("main", "GET", "/droplets"), "droplet:read", "image:read"),
        ("digitalocean", Call("main", "POST", "/droplets/12/actions"), "droplet:update", "droplet:read"),
        ("digitalocean", Call("main", "GET", "/volumes"), "block_storage:read", "droplet:read"),
        ("figma", Call("main", "GET", "/v1/files/abc/comments"), "file_comments:read", "file_content:read"),
        ("figma", Call("main", "POST", "/v1/files/abc/comments"), "file_comments:write", "file_comments:read"),
        ("pagerduty", Call("main", "GET", "/incidents"), "incidents.read", "services.read"),
        ("pagerduty", Call("main", "POST", "/incidents/P1/notes"), "incidents.write", "incidents.read"),
    ],
)
def test_a_call_needs_the_scope_that_the_document_names(name: str, call: Call, least: str, other: str) -> None:
    provider = CATALOG.provider(name)
    assert allows(provider, call, frozenset({least}))
    assert not allows(provider, call, frozenset({other}))


@pytest.mark.parametrize(
    ("name", "path", "near"),
    [
        ("asana", "/batch", "/users/me"),
        ("digitalocean", "/databases/abc", "/droplets/12"),
        ("digitalocean", "/kubernetes/clusters/abc/kubeconfig", "/vpcs/abc"),
        ("figma", "/v2/webhooks/12", "/v1/files/abc"),
        ("pagerduty", "/services/P1/integrations/P2", "/services/P1"),
        ("pagerduty", "/schedules/P1", "/oncalls"),
    ],
)
def test_what_answers_with_credentials_has_no_rule(name: str, path: str, near: str) -> None:
    provider = CATALOG.provider(name)
    for method in ("GET", "POST"):
        assert not allows(provider, Call("main", method, path), provider.all_scopes)
    assert allows(provider, Call("main", "GET", near), provider.all_scopes)


@pytest.mark.parametrize(
    ("name", "path", "widening"), [("asana", "/tasks", "opt_fields"), ("pagerduty", "/incidents", "include[]")]
)
def test_related_objects_are_not_shown_where_the_account_can_do_more(name: str, path: str, widening: str) -> None:
    provider = CATALOG.provider(name)
    scope = frozenset({"tasks:read" if name == "asana" else "incidents.read"})
    for parameter, is_allowed in ((widening, False), ("limit", True)):
        call = Call("main", "GET", path, {parameter: "x"}, Payload(frozenset({parameter})))
        assert allows(provider, call, scope, granted=provider.all_scopes) == is_allowed
        assert allows(provider, call, scope, granted=scope)


PAGING = {"name": "page", "in": "query"}
MAIN = {
    "paths": {
        "/v2/droplets/{id}": {"$ref": "droplets.yml#/one"},
        "/v2/tasks": {
            "parameters": [PAGING, {"name": "opt_fields", "in": "query"}, {"name": "id", "in": "path"}],
            "post": {
                "tags": ["Tasks"],
                "description": "<b>Required scope: </b><code>tasks:write</code> <code>tags:write</code>",
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Task"}}}},
            },
            "get": {"tags": ["Tasks"], "description": "Needs nothing."},
        },
    },
    "components": {"schemas": {"Task": {"allOf": [{"properties": {"data": {}}}, {"$ref": "droplets.yml#/more"}]}}},
}
DROPLETS = {
    "one": {
        "get": {"tags": ["Droplets"], "security": [{"bearer_auth": ["droplet:read", "api:read", "regions:read"]}]},
        "delete": {"tags": ["Databases"], "security": [{"bearer_auth": ["database:delete"]}]},
    },
    "more": {"properties": {"options": {}}},
}


@pytest.fixture
def document(tmp_path: Path) -> openapi.Document:
    (tmp_path / "main.yaml").write_text(yaml.safe_dump(MAIN), encoding="utf-8")
    (tmp_path / "droplets.yml").write_text(yaml.safe_dump(DROPLETS), encoding="utf-8")
    return openapi.Document(tmp_path / "main.yaml")


def test_scopes_are_read_from_descriptions_and_members_through_references(document: openapi.Document) -> None:
    assert list(openapi.rules("asana", document)) == [
        {
            "api": "main",
            "method": "POST",
            "path": "/v2/tasks",
            "scopes": ["tasks:write"],
            "needs": ["tags:write"],
            "query": ["page"],
            "body": ["data", "options"],
        }
    ]


def test_scopes_are_read_from_security_and_parts_that_nobody_looked_through_are_left_out(
    document: openapi.Document,
) -> None:
    assert list(openapi.rules("digitalocean", document)) == [
        {"api": "main", "method": "GET", "path": "/droplets/{}", "scopes": ["droplet:read"], "needs": ["regions:read"]}
    ]
