"""Rules of Salesforce: records of reviewed objects, without a query that reaches others."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from providers.api.rules import Call, Payload, allows
from providers.definitions.catalog import load_catalog

SALESFORCE = load_catalog().provider("salesforce")
API = frozenset({"api"})


def is_let_through(method: str, path: str, *, scopes: frozenset[str] = API, **parameters: str) -> bool:
    call = Call("main", method, path, parameters, Payload(frozenset(parameters)))
    return allows(SALESFORCE, call, scopes)


@pytest.mark.parametrize("version", ["v63.0", "v50.0"])
@pytest.mark.parametrize("name", ["Account", "Campaign", "Case", "Contact", "Event", "Lead", "Opportunity", "Task"])
def test_a_record_is_read_changed_and_created_but_not_deleted(version: str, name: str) -> None:
    path = f"/{version}/sobjects/{name}"
    calls = (("GET", f"{path}/1"), ("PATCH", f"{path}/1"), ("POST", path), ("GET", f"{path}/describe"))
    for method, one in calls:
        assert is_let_through(method, one)
        assert not is_let_through(method, one, scopes=frozenset({"chatter_api", "id"}))
    assert not is_let_through("DELETE", f"{path}/1")


@pytest.mark.parametrize("name", ["ContentDistribution", "TwoFactorInfo", "OauthToken", "AuthSession", "User"])
def test_a_record_of_an_object_that_may_hold_secrets_has_no_rule(name: str) -> None:
    assert not is_let_through("GET", f"/v63.0/sobjects/{name}/1")
    assert not is_let_through("GET", "/v63.0/query", q=f"SELECT Id FROM {name}")
    assert is_let_through("GET", f"/v63.0/sobjects/{name}/describe")


def test_nobody_s_password_is_read_or_set() -> None:
    for method in ("GET", "POST", "DELETE"):
        assert not is_let_through(method, "/v63.0/sobjects/User/1/password")
    assert is_let_through("GET", "/v63.0/limits")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT Id, Name FROM Account",
        "select id,Owner.Name from Contact where LastName = 'Smith' order by Name limit 5",
        "SELECT Id\nFROM Task\nWHERE Status = 'Open' AND WhoId = '003'",
        "SELECT Custom__c FROM Opportunity LIMIT 10",
        "SELECT Id, Account.Industry, Owner.Id FROM Contact WHERE Account.Name = 'A.B' AND Owner.Name != 'x'",
        "SELECT Id FROM Task WHERE Subject = 'wait for update, then view all rows (it\\'s late)'",
        "SELECT Id FROM Opportunity WHERE Amount > 1.5 AND CreatedDate > 2026-01-01T00:00:00.000Z",
    ],
)
def test_a_query_of_one_reviewed_object_is_let_through(query: str) -> None:
    assert is_let_through("GET", "/v63.0/query", q=query)
    assert not is_let_through("GET", "/v63.0/queryAll", q=query)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT Id FROM User",
        "SELECT Id FROM AccountShare",
        "SELECT Id, (SELECT Password FROM ContentDistributions) FROM Account",
        "SELECT Id FROM Account WHERE OwnerId IN (SELECT UserId FROM TwoFactorInfo WHERE SharedKey LIKE 'A%')",
        "SELECT Id FROM Account, Account.Contacts",
        "SELECT Id FROM Account a, a.ContentDistributions d",
        "SELECT CreatedBy.Manager.Email FROM Account",
        "SELECT FIELDS(ALL) FROM Account LIMIT 200",
        "SELECT TYPEOF What WHEN Account THEN Phone END FROM Event",
        "SELECT Id, Owner.FederationIdentifier FROM Account",
        "SELECT CreatedBy.Username FROM Task LIMIT 1",
        "SELECT Id FROM Account WHERE Owner.FederationIdentifier LIKE 'a%'",
        "SELECT Id FROM Account WHERE Account.Owner.Profile.Name = 'x'",
        "SELECT Id FROM Account ORDER BY Owner.FederationIdentifier",
        "SELECT Id FROM Account WHERE IsDeleted = true ALL ROWS",
        "SELECT Id FROM Account LIMIT 1 all\nrows",
        "SELECT Id FROM Account LIMIT 1 FOR UPDATE",
        "SELECT Id FROM Account LIMIT 1 FOR VIEW",
        "SELECT Id FROM Account WHERE Name = 'x'for reference",
        "SELECT Id FROM Account LIMIT 1 UPDATE TRACKING",
        "SELECT Id FROM Account WHERE Name = 'x' OR Id IN (SELECT UserId FROM TwoFactorInfo) OR Name = 'y'",
        "FIND {a}",
        "",
    ],
)
def test_a_query_that_reaches_other_objects_is_refused(query: str) -> None:
    assert not is_let_through("GET", "/v63.0/query", q=query)
    assert not is_let_through("GET", "/v63.0/query", explain=query)


@pytest.mark.parametrize(
    ("sobjects", "is_allowed"),
    [
        ([{"name": "Contact", "fields": ["Id"], "limit": 5}], True),
        ([{"name": "Contact"}, {"name": "Lead"}], True),
        ([{"name": "User"}], False),
        ([{"name": "Contact"}, {"name": "ContentDistribution", "fields": ["Password"]}], False),
        ([{"name": "Contact", "where": "Id IN (SELECT OwnerId FROM Case)"}], False),
        ([{"name": "Contact", "orderBy": "Owner.FederationIdentifier"}], False),
        ([{"fields": ["Id"]}], False),
        ([], False),
        (None, False),  # all objects
    ],
)
def test_a_search_finds_records_of_reviewed_objects_also_with_the_whole_grant(
    sobjects: object, *, is_allowed: bool
) -> None:
    body = {"q": "a"} if sobjects is None else {"q": "a", "sobjects": sobjects}
    call = Call("main", "POST", "/v63.0/parameterizedSearch", body, Payload(frozenset(), body))
    for granted in (API, SALESFORCE.all_scopes):
        assert allows(SALESFORCE, call, API, granted=granted) is is_allowed


@pytest.mark.parametrize(
    ("path", "body", "is_allowed"),
    [
        ("/v63.0/sobjects/Task/1", {"Subject": "x"}, True),
        ("/v63.0/sobjects/Task/1", {"What": {"attributes": {"type": "Case"}}}, False),
        ("/v63.0/sobjects/Contact/1", {"Email": "a@example.com"}, False),  # the organization's own fields
    ],
)
def test_a_record_is_changed_by_known_fields_where_the_token_can_do_more(
    path: str, body: Mapping[str, object], *, is_allowed: bool
) -> None:
    call = Call("main", "PATCH", path, body, Payload(frozenset(), body))
    assert allows(SALESFORCE, call, API, granted=SALESFORCE.all_scopes) is is_allowed
    assert allows(SALESFORCE, call, API)
