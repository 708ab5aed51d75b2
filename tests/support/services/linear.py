"""Linear (linear.app/developers/graphql): the queries that tools send, distinguished by their first field."""

from __future__ import annotations

import re

from pydantic import JsonValue
from starlette.responses import Response

from tests.support.services.desk import Record, ServiceCall, at, reply, text

TEAM = "team-0001"
_SEED: tuple[Record, ...] = (
    {"identifier": "ENG-1", "title": "Login fails on Safari", "description": "Only on Sundays.", "comments": []},
    {"identifier": "ENG-2", "title": "Dark mode", "description": "", "comments": []},
)


def answer(visit: ServiceCall) -> Response:
    """One query or mutation; errors have status 200 and `errors`, as at Linear."""
    if visit.call.method != "POST" or visit.parts != ("graphql",):
        return reply({"errors": [{"message": "not found"}]}, status=404)
    issues = visit.records("linear", seed=_SEED)
    query = text(dict(visit.body), "query")
    variables = at(dict(visit.body), "variables")
    found = re.search(r"\{\s*(\w+)", query)
    match found[1] if found else "":
        case "teams":
            return _data({"teams": {"nodes": [{"id": TEAM, "key": "ENG", "name": "Engineering"}]}})
        case "team":
            is_known = text(variables, "id") == TEAM
            team: JsonValue = {"id": TEAM, "key": "ENG", "name": "Engineering"}
            return _data({"team": team}) if is_known else _refusal("Entity not found: Team")
        case "searchIssues":
            words = text(variables, "term").lower().split()
            nodes: list[JsonValue] = [
                _issue(one) for one in issues if all(word in text(one, "title").lower() for word in words)
            ]
            return _data({"searchIssues": {"nodes": nodes}})
        case "issue":
            wanted = _find_issue(issues, text(variables, "id"))
            return _refusal("Entity not found: Issue") if wanted is None else _data({"issue": _issue(wanted)})
        case "issueCreate":
            if text(variables, "team") != TEAM:
                return _refusal("Entity not found: Team")
            made: Record = {
                "identifier": f"ENG-{len(issues) + 1}",
                "title": text(variables, "title"),
                "description": text(variables, "text"),
                "comments": [],
            }
            issues.append(made)
            visit.note("linear", text(made, "title"))
            return _data({"issueCreate": {"success": True, "issue": _issue(made)}})
        case "commentCreate":
            if _find_issue(issues, text(variables, "issue")) is None:
                return _refusal("Entity not found: Issue")
            visit.note("linear", text(variables, "text"))
            return _data(
                {"commentCreate": {"success": True, "comment": {"id": "c-1", "url": "https://linear.app/c/1"}}}
            )
        case _:
            return reply({"errors": [{"message": "Cannot query that field"}]}, status=400)


def _find_issue(issues: list[Record], identifier: str) -> Record | None:
    return next((one for one in issues if one["identifier"] == identifier), None)


def _issue(one: Record) -> Record:
    return {
        "identifier": one["identifier"],
        "title": one["title"],
        "description": one["description"],
        "url": f"https://linear.app/sandbox/issue/{one['identifier']}",
        "state": {"name": "Todo"},
        "assignee": None,
    }


def _data(content: JsonValue) -> Response:
    return reply({"data": content})


def _refusal(message: str) -> Response:
    return reply({"data": None, "errors": [{"message": message, "extensions": {"code": "INPUT_ERROR"}}]})
