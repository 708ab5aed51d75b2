"""Rules of HubSpot: an object's own scope, both scopes for what connects two objects, and nothing that deletes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from providers.api.rules import Call, Payload, allows
from providers.definitions.catalog import load_catalog
from tests.generating import openapi

HUBSPOT = load_catalog().provider("hubspot")
READ, WRITE = "crm.objects.{}.read", "crm.objects.{}.write"
OBJECTS = {name: (READ.format(name), WRITE.format(name)) for name in ("contacts", "companies", "deals")}
OBJECTS["tickets"] = ("tickets", "tickets")


def is_let_through(
    method: str,
    path: str,
    *scopes: str,
    granted: frozenset[str] | None = None,
    query: str = "",
    body: Mapping[str, object] | None = None,
) -> bool:
    names, members = frozenset(query.split()), body or {}
    call = Call("main", method, path, {**dict.fromkeys(names, "x"), **members}, Payload(names, members))
    return allows(HUBSPOT, call, frozenset(scopes), granted=granted)


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_read_and_changed_with_its_own_scope(name: str) -> None:
    read, write = OBJECTS[name]
    others = [scope for other, both in OBJECTS.items() if other != name for scope in both]
    for method, below, scope in (
        *(("GET", "", read), ("GET", "/1", read), ("POST", "/search", read), ("POST", "/batch/read", read)),
        *(("POST", "", write), ("PATCH", "/1", write), ("POST", "/batch/update", write)),
    ):
        for path in (f"/crm/v3/objects/{name}{below}", *([f"/crm/v3/objects/0-3{below}"] if name == "deals" else [])):
            assert is_let_through(method, path, scope)
            assert not is_let_through(method, path, *others)
            if read != write:
                assert not is_let_through(method, path, read if scope == write else write)


@pytest.mark.parametrize(
    ("path", "least", "other"),
    [
        ("/crm/v3/owners", "crm.objects.owners.read", "crm.objects.contacts.read"),
        ("/crm/v3/pipelines/deals/1/stages", "crm.objects.deals.read", "tickets"),
        ("/crm/v3/pipelines/tickets", "tickets", "crm.objects.deals.read"),
        ("/crm/v3/properties/companies/name", "crm.objects.companies.read", "crm.objects.contacts.read"),
    ],
)
def test_what_describes_objects_is_read_with_their_scope(path: str, least: str, other: str) -> None:
    """According to the documents, the scope of any object is enough."""
    assert is_let_through("GET", path, least)
    assert not is_let_through("GET", path, other)


@pytest.mark.parametrize("one", OBJECTS)
@pytest.mark.parametrize("other", OBJECTS)
def test_what_connects_two_objects_needs_the_scopes_of_both(one: str, other: str) -> None:
    for method, path, both in (
        ("GET", f"/crm/v4/objects/{one}/1/associations/{other}", (OBJECTS[one][0], OBJECTS[other][0])),
        ("PUT", f"/crm/v4/objects/{one}/1/associations/default/{other}/2", (OBJECTS[one][1], OBJECTS[other][1])),
    ):
        assert is_let_through(method, path, *both) is (one != other)
        assert not is_let_through(method, path, both[0])
        assert not is_let_through(method, path, both[1])


@pytest.mark.parametrize(
    ("method", "path", "near"),
    [
        ("DELETE", "/crm/v3/objects/contacts/1", "PATCH /crm/v3/objects/contacts/1"),
        ("POST", "/crm/v3/objects/contacts/batch/archive", "POST /crm/v3/objects/contacts/batch/update"),
        ("POST", "/crm/v3/objects/contacts/batch/create", "POST /crm/v3/objects/contacts"),  # with associations
        ("POST", "/crm/v3/objects/contacts/gdpr-delete", "POST /crm/v3/objects/contacts"),
        ("POST", "/crm/v3/objects/tickets/merge", "POST /crm/v3/objects/tickets"),
        ("GET", "/crm/v3/objects/notes/1", "GET /crm/v3/objects/contacts/1"),
        ("POST", "/crm/v3/pipelines/tickets", "GET /crm/v3/pipelines/tickets"),
        ("POST", "/crm/v3/properties/tickets", "GET /crm/v3/properties/tickets"),
        ("PUT", "/crm/v4/objects/contacts/1/associations/deals/2", "GET /crm/v4/objects/contacts/1/associations/deals"),
    ],
)
def test_a_call_that_deletes_or_that_no_title_describes_has_no_rule(method: str, path: str, near: str) -> None:
    assert not is_let_through(method, path, *HUBSPOT.all_scopes)
    assert is_let_through(*near.split(), *HUBSPOT.all_scopes)


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_shows_and_gets_no_associations_where_the_token_can_do_more(name: str) -> None:
    (read, write), path = OBJECTS[name], f"/crm/v3/objects/{name}"
    for query, is_allowed in (("associations", False), ("properties", True)):
        assert is_let_through("GET", path, read, granted=HUBSPOT.all_scopes, query=query) is is_allowed
        assert is_let_through("GET", path, read, query=query)
    plain: Mapping[str, object] = {"properties": {"name": "x"}}
    for body, is_allowed in (({**plain, "associations": [{}]}, False), (plain, True)):
        assert is_let_through("POST", path, write, granted=HUBSPOT.all_scopes, body=body) is is_allowed


@pytest.mark.parametrize("path", ["/crm/v3/objects/tickets/search", "/crm/v3/objects/0-3/search"])
def test_no_object_is_searched_by_what_it_is_associated_with(path: str) -> None:
    for name, is_allowed in (("subject", True), ("associations.contact", False)):
        body = {"filterGroups": [{"filters": [{"propertyName": name, "operator": "EQ", "value": "1"}]}]}
        assert is_let_through("POST", path, "tickets", "crm.objects.deals.read", body=body) is is_allowed


@pytest.mark.parametrize(
    ("sorts", "is_allowed"),
    [
        ([{"propertyName": "createdate", "direction": "DESCENDING"}], True),
        ([{"propertyName": "associations.deal"}], False),
        ([{"propertyName": "createdate"}, {"propertyName": "associations.deal"}], False),
        (["associations.deal"], False),
        (["createdate"], False),  # can't be told from the one above
        ([], True),
    ],
)
@pytest.mark.parametrize("name", OBJECTS)
def test_no_object_is_sorted_by_what_it_is_associated_with_where_the_token_can_do_more(
    name: str, sorts: object, *, is_allowed: bool
) -> None:
    (read, _), path = OBJECTS[name], f"/crm/v3/objects/{name}/search"
    assert is_let_through("POST", path, read, granted=HUBSPOT.all_scopes, body={"sorts": sorts}) is is_allowed
    assert is_let_through("POST", path, read, body={"sorts": sorts})


_ABOUT = {  # the types of associations, as HubSpot's own client names them
    "notes": {"contacts": 202, "companies": 190, "deals": 214, "tickets": 228},
    "tasks": {"contacts": 204, "companies": 192, "deals": 216, "tickets": 230},
}


@pytest.mark.parametrize("kind", _ABOUT)
@pytest.mark.parametrize("about", OBJECTS)
def test_a_note_or_task_is_about_an_object_that_the_caller_may_change(kind: str, about: str) -> None:
    path, contacts = f"/crm/v3/objects/{kind}", OBJECTS["contacts"][1]

    def is_written(*types: object, scopes: tuple[str, ...], category: str = "HUBSPOT_DEFINED") -> bool:
        links = [
            {"to": {"id": 1}, "types": [{"associationCategory": category, "associationTypeId": one}]} for one in types
        ]
        return is_let_through("POST", path, *scopes, body={"properties": {}, "associations": links})

    own, both = _ABOUT[kind][about], (contacts, OBJECTS[about][1])
    assert is_written(own, scopes=both)
    assert is_written(own, scopes=(contacts,)) is (about == "contacts")
    assert is_written(own, scopes=(OBJECTS[about][1],)) is (about == "contacts")
    assert not is_written(own, scopes=both, category="USER_DEFINED")
    other = next(one for name, one in _ABOUT[kind].items() if name != about)
    assert not is_written(own, other, scopes=(contacts, *HUBSPOT.all_scopes))
    assert not is_written(scopes=both)


def test_one_path_of_a_document_stands_for_each_object(tmp_path: Path) -> None:
    any_object = [{"oauth2": [scope]} for scope in ("automation", "crm.objects.deals.read", "tickets")]
    paths = {
        "/crm/v3/pipelines/{objectType}": {"get": {"security": any_object}, "post": {"security": any_object}},
        "/crm/v3/owners": {"get": {"security": [{"oauth2": ["automation"]}, {"oauth2": ["crm.objects.owners.read"]}]}},
    }
    (tmp_path / "hubspot.json").write_text(json.dumps({"paths": paths}), encoding="utf-8")
    rule = {"api": "main", "method": "GET"}
    assert list(openapi.rules("hubspot", openapi.Document(tmp_path / "hubspot.json"))) == [
        {**rule, "path": "/crm/v3/pipelines/deals", "scopes": ["crm.objects.deals.read"]},
        {**rule, "path": "/crm/v3/pipelines/tickets", "scopes": ["tickets"]},
        {**rule, "path": "/crm/v3/owners", "scopes": ["crm.objects.owners.read"]},
    ]
