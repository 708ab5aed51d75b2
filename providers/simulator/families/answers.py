"""Builds the answers of a family mode: tokens and refusals in the mode's shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from pydantic import JsonValue
from starlette.responses import JSONResponse, Response

from providers.simulator.accounts import PEOPLE, Person
from providers.simulator.calls import SimulatedCall
from providers.simulator.modes.model import Mode
from providers.simulator.state.tokens import SimulatedTokens

NO_STORE = {"cache-control": "no-store"}


def tokens_answer(mode: Mode, call: SimulatedCall, issued: SimulatedTokens, *, now: float) -> Response:
    """The answer with new tokens (RFC 6749 §5.1, in this mode's form)."""
    shape = mode.shape
    left = round(issued.expires_at - now)
    said: dict[str, JsonValue] = {"access_token": issued.access_token, "token_type": "bearer"}
    match shape.expiry:
        case "seconds":
            said[shape.expiry_name] = left
        case "text":
            said[shape.expiry_name] = str(left)
        case "milliseconds":
            said[shape.expiry_name] = left * 1000
        case "iso":
            said[shape.expiry_name] = iso(issued.expires_at)
        case "epoch":
            said[shape.expiry_name] = round(issued.expires_at)
        case "absent":
            pass
    if issued.refresh_token is not None:
        said["refresh_token"] = issued.refresh_token
    told = sorted(shape.said.get(scope, scope) for scope in issued.scopes - shape.unsaid)
    match shape.scope:
        case "text":
            said["scope"] = shape.separator.join(told)
        case "array":
            said["scope"] = list(told)
        case "absent":
            pass
    renamed: dict[str, JsonValue] = {}
    for name, value in said.items():
        place(renamed, shape.names.get(name, name), value)
    whole = {**_under(shape.root, renamed), **shape.extra}
    ends = mode.rules.refresh_lifetime
    if shape.grant_expiry_name is not None and ends is not None:
        place(whole, shape.grant_expiry_name, round(issued.family.created_at + ends - now))
    if mode.identity_in == "answer":
        for name, value in identity_body(mode, PEOPLE[issued.family.account]).items():
            whole.setdefault(name, value)
    return success(mode, call, whole)


def success(mode: Mode, call: SimulatedCall, body: Mapping[str, JsonValue], *, status: int | None = None) -> Response:
    """A successful answer, with the flag that this mode adds to each."""
    shape = mode.shape
    if shape.ok_flag is not None:
        body = {shape.ok_flag: True, **body}
    if shape.form_unless_asked and "application/json" not in call.headers.get("accept", ""):
        text = urlencode({name: str(value) for name, value in body.items()})
        return Response(text, media_type="application/x-www-form-urlencoded", headers=NO_STORE)
    return JSONResponse(dict(body), status_code=status or shape.status, headers=NO_STORE)


def refusal(mode: Mode, error: str, description: str, *, status: int = 400) -> Response:
    """An error (RFC 6749 §5.2), with the mode's own code and status."""
    shape = mode.shape
    body: dict[str, JsonValue] = {}
    for name, text in zip(shape.error_names, (mode.error_codes.get(error, error), description), strict=True):
        place(body, name, int(text) if text.isdecimal() else text)
    if shape.ok_flag is not None:
        body = {shape.ok_flag: False, **body}
    if shape.ok_flag is not None or shape.errors_with_200:
        status = 200
    headers = {**NO_STORE, "www-authenticate": 'Basic realm="sandbox"'} if status == 401 else NO_STORE
    return JSONResponse(body, status_code=status, headers=headers)


def identity_body(mode: Mode, person: Person) -> dict[str, JsonValue]:
    """The account, in the members where this mode states it."""
    body: dict[str, JsonValue] = {}
    facts = facts_of(person)
    for path, template in mode.identity.items():
        text = template.format_map(facts)
        value: JsonValue = int(text[1:]) if text.startswith("#") else text
        place(body, path, value)
    return body


def facts_of(person: Person) -> dict[str, str]:
    """The facts of a person that answers contain."""
    return {
        "id": person.google_id,
        "name": person.display_name,
        "login": person.name,
        "email": person.email,
        "team": "T0SANDBOX1",
    }


def iso(at: float) -> str:
    """RFC 3339, in UTC and whole seconds."""
    return datetime.fromtimestamp(round(at), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _steps(path: str) -> list[str]:
    """The names of a dotted path; a dot in a name is escaped: `error.\\.tag`."""
    return [step.replace("\\.", ".") for step in re.split(r"(?<!\\)\.", path)]


def _under(root: str | None, members: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for name in reversed(() if root is None else _steps(root)):
        members = {name: members}
    return members


def place(body: dict[str, JsonValue], path: str, value: JsonValue) -> None:
    """Put a value at a dotted path; a numeric part is an index in an array."""
    inside: JsonValue = value
    first, *rest = _steps(path)
    for name in reversed(rest):
        inside = [inside] if name == "0" else {name: inside}
    _merge(body, {first: inside})


def _merge(body: dict[str, JsonValue], more: dict[str, JsonValue]) -> None:
    for name, value in more.items():
        there = body.get(name)
        if isinstance(there, dict) and isinstance(value, dict):
            _merge(there, value)
        elif isinstance(there, list) and isinstance(value, list) and isinstance(there[0], dict):
            _merge(there[0], value[0] if isinstance(value[0], dict) else {})
        else:
            body[name] = value
