"""HubSpot CRM (developers.hubspot.com/docs/api/crm): searching contacts, companies, and deals; notes about contacts."""

from __future__ import annotations

from pydantic import JsonValue
from starlette.responses import Response

from tests.support.services.desk import Record, ServiceCall, at, page, reply, text

_DANA: Record = {"firstname": "Dana", "lastname": "Reed", "email": "dana@customer.example", "phone": "+49 30 1234"}
_SEED: tuple[Record, ...] = (
    {"id": "101", **_DANA, "company": "Customer GmbH", "jobtitle": "Buyer", "lifecyclestage": "customer"},
    {"id": "102", "firstname": "Sam", "lastname": "Hill", "email": "sam@customer.example", "phone": ""},
)
_SHOWN = "firstname,lastname,email"  # of a contact, unless the call names properties
_COMPANIES: tuple[Record, ...] = (
    {"id": "301", "name": "Customer GmbH", "domain": "customer.example", "city": "Berlin", "country": "Germany"},
    {"id": "302", "name": "Supplier Ltd", "domain": "supplier.example", "city": "Leeds", "country": "United Kingdom"},
)
_DEALS: tuple[Record, ...] = (
    {
        "id": "501",
        "dealname": "Renewal of Customer",
        "amount": "1200",
        "dealstage": "contractsent",
        "closedate": "2026-12-24",
    },
)


def answer(visit: ServiceCall) -> Response:
    """One operation."""
    contacts = visit.records("hubspot", seed=_SEED)
    match visit.call.method, visit.parts:
        case "POST", ["crm", "v3", "objects", ("contacts" | "companies" | "deals") as kind, "search"]:
            known = {"contacts": contacts, "companies": _COMPANIES, "deals": _DEALS}[kind]
            words = text(dict(visit.body), "query").lower().split()
            found = [
                one for one in known if all(word in " ".join(str(v) for v in one.values()).lower() for word in words)
            ]
            limit = at(dict(visit.body), "limit")
            shown, following = page(
                [_object(visit, one) for one in found],
                size=limit if isinstance(limit, int) else 10,
                begin=text(dict(visit.body), "after") or None,
            )
            paging: Record = {} if following is None else {"paging": {"next": {"after": following}}}
            return reply({"total": len(found), "results": shown, **paging})
        case "GET", ["crm", "v3", "objects", "contacts", wanted] if found := [
            one for one in contacts if one["id"] == wanted
        ]:
            names = {"id", *visit.call.query.get("properties", _SHOWN).split(",")}
            return reply(_object(visit, {name: value for name, value in found[0].items() if name in names}))
        case "POST", ["crm", "v3", "objects", "notes"]:
            about = at(dict(visit.body), "associations", 0, "to", "id")
            if not any(one["id"] == about for one in contacts):
                return reply(
                    {"status": "error", "message": "no such contact", "category": "VALIDATION_ERROR"}, status=400
                )
            visit.note("hubspot", text(dict(visit.body), "properties", "hs_note_body"))
            made: JsonValue = {"id": "9001", "properties": visit.body.get("properties"), "createdAt": visit.now()}
            return reply(made, status=201)
        case _:
            return reply({"status": "error", "message": "not found", "category": "OBJECT_NOT_FOUND"}, status=404)


def _object(visit: ServiceCall, one: Record) -> Record:
    properties = {name: value for name, value in one.items() if name != "id"}
    return {"id": one["id"], "properties": properties, "updatedAt": visit.now()}
