"""Jira Cloud behind api.atlassian.com (developer.atlassian.com/cloud/jira/platform/rest/v2): sites, search, issues."""

from __future__ import annotations

from pydantic import JsonValue
from starlette.responses import Response

from tests.support.services.desk import Record, ServiceCall, reply, text

SITE = "11223344-a1b2-4b33-8444-def123456789"
_SEED: tuple[Record, ...] = (
    {"key": "OPS-1", "summary": "Rotate the certificates", "description": "Before Friday.", "status": "To Do"},
    {"key": "OPS-2", "summary": "Upgrade the database", "description": "", "status": "Done"},
)


def answer(visit: ServiceCall) -> Response:
    """One operation at a site."""
    issues = visit.records("jira", seed=_SEED)
    match visit.call.method, visit.parts:
        case "GET", ["oauth", "token", "accessible-resources"]:
            return reply([{"id": SITE, "name": "sandbox", "url": "https://sandbox.atlassian.net", "scopes": []}])
        case method, ["ex", "jira", site, "rest", "api", "2", *rest] if site == SITE:
            return _at_site(visit, issues, method, rest)
        case _:
            return reply({"code": 404, "message": "Not Found"}, status=404)


def _at_site(visit: ServiceCall, issues: list[Record], method: str, rest: list[str]) -> Response:
    match method, rest:
        case "GET", ["search", "jql"]:
            jql = visit.call.query.get("jql", "").lower()
            found: list[JsonValue] = [_issue(one) for one in issues if _fits(one, jql)]
            return reply({"issues": found, "isLast": True})
        case "GET", ["project", "OPS"]:
            return reply({"id": "10000", "key": "OPS", "name": "Operations"})
        case "GET", ["issue", key]:
            wanted = _find_issue(issues, key)
            return _not_found() if wanted is None else reply(_issue(wanted))
        case "POST", ["issue"]:
            fields = visit.body.get("fields")
            if not text(fields, "summary") or not text(fields, "project", "key"):
                return reply({"errorMessages": [], "errors": {"summary": "You must specify a summary."}}, status=400)
            key = f"{text(fields, 'project', 'key')}-{len(issues) + 1}"
            made: Record = {
                "key": key,
                "summary": text(fields, "summary"),
                "description": text(fields, "description"),
                "status": "To Do",
            }
            issues.append(made)
            visit.note("jira", text(made, "summary"))
            return reply({"id": "10001", "key": key}, status=201)
        case "POST", ["issue", key, "comment"]:
            if _find_issue(issues, key) is None:
                return _not_found()
            visit.note("jira", text(dict(visit.body), "body"))
            return reply({"id": "20001", "body": visit.body.get("body"), "created": visit.now()}, status=201)
        case _:
            return _not_found()


def _fits(one: Record, jql: str) -> bool:
    """Only `text ~ "words"` is evaluated; any other JQL finds everything."""
    _, found, words = jql.partition('text ~ "')
    return not found or words.partition('"')[0] in text(one, "summary").lower()


def _find_issue(issues: list[Record], key: str) -> Record | None:
    return next((one for one in issues if one["key"] == key), None)


def _issue(one: Record) -> Record:
    return {
        "id": "10000",
        "key": one["key"],
        "fields": {
            "summary": one["summary"],
            "description": one["description"] or None,
            "status": {"name": one["status"]},
            "assignee": None,
        },
    }


def _not_found() -> Response:
    message = "Issue does not exist or you do not have permission to see it."
    return reply({"errorMessages": [message], "errors": {}}, status=404)
