"""Salesforce's REST API (developer.salesforce.com, api_rest): search by parameters, tasks; errors are lists."""

from __future__ import annotations

from starlette.responses import Response

from tests.support.services.desk import Record, ServiceCall, at, reply, text

CONTACT = "0035g00000Dana1AAA"
_COMPANY = "0015g00000Acme1AAA"
_DANA: Record = {"Id": CONTACT, "Name": "Dana Reed", "Email": "dana@customer.example", "Phone": "+49 30 1234"}
_SAM: Record = {"Id": "0035g00000Sam01AAA", "Name": "Sam O'Hill", "Email": "sam@customer.example", "Phone": None}
_CONTACTS: tuple[Record, ...] = (
    {**_DANA, "Title": "Buyer", "Department": "Purchasing", "AccountId": _COMPANY, "Description": "Calls on Mondays."},
    {**_SAM, "Title": None, "Department": None, "AccountId": _COMPANY, "Description": None},
)
_ACCOUNTS: tuple[Record, ...] = (
    {"Id": _COMPANY, "Name": "Acme", "Phone": "+1 555 0100", "Website": "https://acme.example"},
)
_SEARCH = {"q", "fields", "sobjects", "defaultLimit", "overallLimit", "in", "spellCorrection"}
_OBJECT = {"name", "fields", "limit", "orderBy", "where"}
_TASK = {"WhoId", "WhatId", "Subject", "Description", "Status", "Priority", "ActivityDate"}


def answer(visit: ServiceCall) -> Response:
    """One operation."""
    match visit.call.method, visit.parts:
        case "POST", ["v63.0", "parameterizedSearch"]:
            return _search(visit)
        case "GET", ["v63.0", "sobjects", "Contact", wanted]:
            return _contact(visit, wanted)
        case "POST", ["v63.0", "sobjects", "Task"]:
            return _task(visit)
        case _:
            return refusal(404, "NOT_FOUND", "The requested resource does not exist")


def refusal(status: int, code: str, message: str) -> Response:
    """An error in Salesforce's shape."""
    return reply([{"message": message, "errorCode": code}], status=status)


def _search(visit: ServiceCall) -> Response:
    body = dict(visit.body)
    words, wanted, kind = text(body, "q").lower(), at(body, "fields"), text(body, "sobjects", 0, "name")
    about = at(body, "sobjects", 0)
    odd = (set(body) - _SEARCH) | (set(about) - _OBJECT if isinstance(about, dict) else {"sobjects"})
    if odd:
        return refusal(400, "JSON_PARSER_ERROR", f"Unrecognized field {min(odd)}")
    if len(words) < 2:
        return refusal(400, "MALFORMED_SEARCH", "search term must be longer than one character")
    records = {"Contact": _CONTACTS, "Account": _ACCOUNTS}.get(kind)
    if records is None:
        return refusal(400, "INVALID_TYPE", f"sObject type '{kind}' is not supported.")
    names = [one for one in wanted if isinstance(one, str)] if isinstance(wanted, list) else ["Id"]
    if (refused := _unknown_field(kind, names, records)) is not None:
        return refused
    limit = at(body, "sobjects", 0, "limit")
    found = [one for one in records if words in " ".join(str(value) for value in one.values()).lower()]
    shown = found[: limit if isinstance(limit, int) else 2000]
    return reply({"searchRecords": [_record(kind, one, names) for one in shown], "metadata": None})


def _contact(visit: ServiceCall, wanted: str) -> Response:
    names = visit.call.query.get("fields", ",".join(_CONTACTS[0])).split(",")
    if (refused := _unknown_field("Contact", names, _CONTACTS)) is not None:
        return refused
    found = next((one for one in _CONTACTS if one["Id"] == wanted), None)
    if found is None:
        return refusal(404, "NOT_FOUND", "The requested resource does not exist")
    return reply(_record("Contact", found, names))


def _unknown_field(kind: str, names: list[str], records: tuple[Record, ...]) -> Response | None:
    unknown = [name for name in names if name not in records[0]]
    return refusal(400, "INVALID_FIELD", f"No such column '{unknown[0]}' on entity '{kind}'.") if unknown else None


def _record(kind: str, one: Record, names: list[str]) -> Record:
    url = f"/services/data/v63.0/sobjects/{kind}/{one['Id']}"
    return {"attributes": {"type": kind, "url": url}, **{name: one[name] for name in names}}


def _task(visit: ServiceCall) -> Response:
    odd = set(visit.body) - _TASK
    if odd:
        return refusal(400, "INVALID_FIELD", f"No such column '{min(odd)}' on sobject of type Task")
    if not any(one["Id"] == visit.body.get("WhoId") for one in _CONTACTS):
        return refusal(400, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id")
    visit.note("salesforce", text(dict(visit.body), "Description"))
    return reply({"id": "00T5g00000Task1AAA", "success": True, "errors": []}, status=201)


def no_authority(status: int) -> Response:
    """The token is dead, or wasn't issued for the API."""
    if status == 401:
        return refusal(401, "INVALID_SESSION_ID", "Session expired or invalid")
    return refusal(403, "INVALID_SESSION_ID", "This session is not valid for use with the REST API")
