"""The services' own published descriptions of their answers, as JSON Schemas that refuse unknown members.

Google's are the discovery documents in google-api-python-client; tests/generating/github.py extracted GitHub's from
@octokit/openapi. Only GitHub marks members of answers as required.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date, datetime
from functools import cache
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator, FormatChecker

from tests.generating import github, google

Schema = Mapping[str, object]
FORMATS = FormatChecker(formats=())
_STRINGS = {"int64": r"^-?[0-9]+$", "uint64": r"^[0-9]+$", "byte": r"^[A-Za-z0-9+/=_-]*$"}  # Google: numbers in quotes


@FORMATS.checks("date-time")
def _is_moment(value: object) -> bool:
    """RFC 3339: a date, a time, and an offset."""
    try:
        return not isinstance(value, str) or ("T" in value and datetime.fromisoformat(value).tzinfo is not None)
    except ValueError:
        return False


@FORMATS.checks("date")
def _is_day(value: object) -> bool:
    try:
        return not isinstance(value, str) or date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


@FORMATS.checks("uri")
def _is_address(value: object) -> bool:
    """Absolute and complete: no template is left in it."""
    return not isinstance(value, str) or (bool(urlsplit(value).netloc) and re.search(r"[{}\s]", value) is None)


@FORMATS.checks("email")
def _is_mail(value: object) -> bool:
    return not isinstance(value, str) or "@" in value


def problems(schema: Schema, answer: object) -> list[str]:
    """The differences between the answer and its description, each with its place."""
    validator = Draft202012Validator(schema, format_checker=FORMATS)
    found = sorted(validator.iter_errors(answer), key=lambda error: list(map(str, error.absolute_path)))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]


@cache
def of_github() -> Mapping[str, Mapping[str, Schema]]:
    """Operation -> status -> schema."""
    content = json.loads(github.ANSWERS.read_text(encoding="utf-8"))
    return {
        operation: {status: {**schema, "$defs": content["$defs"]} for status, schema in known.items()}
        for operation, known in content["answers"].items()
    }


@cache
def of_google(document: str) -> Mapping[str, tuple[str, str, Schema | None]]:
    """`calendar.events.list` -> HTTP method, path below the host, and the answer's schema, if there is one."""
    content = google.document(document)
    shapes = {name: strict_google(one) for name, one in content["schemas"].items()}
    found: dict[str, tuple[str, str, Schema | None]] = {}
    for method in google.methods(content):
        response = method.get("response")
        schema = None if response is None else {**strict_google(response), "$defs": shapes}
        found[method["id"]] = (method["httpMethod"], f"/{content['servicePath']}{method['path']}", schema)
    return found


def strict_google(schema: Schema) -> dict[str, object]:
    """A schema of a discovery document as JSON Schema."""
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    kind, form = schema.get("type"), schema.get("format")
    if kind == "any":
        return {}
    made: dict[str, object] = {"type": kind}
    if kind == "string" and form in _STRINGS:
        made["pattern"] = _STRINGS[form]
    elif form in ("date-time", "date"):
        made["format"] = form
    if "enum" in schema:
        made["enum"] = schema["enum"]
    if kind == "array":
        made["items"] = strict_google(schema["items"])
    if kind == "object":
        made["properties"] = {name: strict_google(one) for name, one in schema.get("properties", {}).items()}
        more = schema.get("additionalProperties")
        made["additionalProperties"] = False if more is None else strict_google(more)
    return made
