"""Makes a provider file and a tool file from an OpenAPI document, for a person to review before anything is turned on.
Makes one rule and one tool for each operation that a tool can call: with JSON in both directions, all required
parameters among its arguments, and nothing that is named like a credential. Each omission has a reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from providers.api.text import as_data
from providers.definitions.method_overrides import is_method_parameter
from providers.tools.declarations import Tool
from providers.tools.openapi_document import (
    DocumentRefused,
    LeftOut,
    OpenAPIDocument,
    OpenAPIOperation,
    Schema,
    list_of,
    object_of,
    text_of,
)

TOOLS: Final = 100  # in one file; more are of no use to agents
ARGUMENTS: Final = 20
FIELDS: Final = 12
CHOICES: Final = 30
_ID: Final = "^[A-Za-z0-9._~:@-]{1,200}$"
CREDENTIAL: Final = re.compile(
    r"secret|passw|credential|private_?key|api_?key|(access|refresh|auth|bearer|session|id)_?token|^token$",
    re.IGNORECASE,
)
_SENT: Final = re.compile(r"[A-Za-z0-9_@$-]+(\[[A-Za-z0-9_-]*\])?")
_PATH: Final = re.compile(r"(/([A-Za-z0-9._~:@-]+|\{[^{}/]+\}))+")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,200}")
_EFFECTS: Final[Mapping[str, str]] = {
    "GET": "read",
    "POST": "create",
    "PUT": "update",
    "PATCH": "update",
    "DELETE": "delete",
}
_LARGEST_BOUND: Final = 2**53  # beyond this, some JSON parsers lose integers' precision
_DEEPEST: Final = 6  # levels of nested objects in an answer
_RULE_PATH: Final = re.compile(r"(/([A-Za-z0-9._~:@-]|\{\})+)+")
_NEVER: Final = "(?!)"  # a pattern that no value matches, not even an absent one
_SEPARATORS: Final[Mapping[str, str]] = {"form": ",", "spaceDelimited": " ", "pipeDelimited": "|"}
_KINDS: Final[Mapping[str, str]] = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}
Table = dict[str, object]


class InseparableTool(Exception):
    """The rule of this tool allows calls that were left out."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, slots=True)
class ReviewedTool:
    """One tool as the review shows it."""

    name: str
    call: str
    title: str
    description: str
    effect: str
    scopes: Sequence[str]
    left_out: Sequence[str]  # optional parameters that it doesn't take


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The contents of both files, and what a person should look at."""

    address: str  # of the API
    audience: str  # of the tokens that go there
    scope_titles: Mapping[str, str]
    provider: Table
    tools: Table
    review: Sequence[ReviewedTool]
    left_out: Sequence[tuple[str, str]]  # method and path, and the reason


@dataclass(slots=True)
class _ImportDraft:
    rules: list[Table] = field(default_factory=list[Table])
    tools: list[Table] = field(default_factory=list[Table])
    scopes: dict[str, Table] = field(default_factory=dict[str, Table])
    review: list[ReviewedTool] = field(default_factory=list[ReviewedTool])
    left_out: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    closed: list[str] = field(default_factory=list[str])  # method and path of these, and of unchosen operations


def import_document(
    document: OpenAPIDocument, *, name: str, title: str, audience: str, server: str, only: re.Pattern[str] | None = None
) -> ImportResult:
    """The files for an API named `name`, which takes the vault's tokens for `audience`. Raises DocumentRefused.

    `only`: the operations to take, by a part of `METHOD /path`.
    """
    address = server or document.server
    if urlsplit(address).scheme != "https" or "{" in address:
        raise DocumentRefused("doesn't name an https address of the API: give it with --server")
    made = _ImportDraft()
    for operation in document.operations():
        if not isinstance(operation, OpenAPIOperation):
            made.left_out.append(operation)
        elif only is not None and only.search(operation.call) is None:
            made.closed.append(operation.call)
        elif len(made.tools) == TOOLS:
            made.left_out.append((operation.call, f"there are {TOOLS} tools already; choose with --only"))
        else:
            try:
                _add(document, operation, name, made)
            except LeftOut as why:
                made.left_out.append((operation.call, str(why)))
    _close(made)
    if not made.tools:
        first = f": {made.left_out[0][0]}: {made.left_out[0][1]}" if made.left_out else ""
        raise DocumentRefused(f"has no operation that can become a tool{first}")
    audience = audience or "{0.scheme}://{0.netloc}".format(urlsplit(address))
    titles = {scope: str(about["title"]) for scope, about in made.scopes.items()}
    provider: Table = {
        "name": name,
        "title": one_line(title or document.title or name, limit=120),
        "audience": audience,
        "apis": {"main": address},
        "scopes": made.scopes,
        "overrides": {"parameters": []},
        "rules": made.rules,
    }
    return ImportResult(
        address, audience, titles, provider, {"provider": name, "tool": made.tools}, made.review, made.left_out
    )


def _close(made: _ImportDraft) -> None:
    """Rules that no one can use, for operations that aren't tools but that a tool's rule would allow."""
    closed: dict[tuple[str, str], Table] = {}
    calls = [*(call for call, _ in made.left_out), *made.closed]
    for call in calls:  # which grows
        method, _, path = call.partition(" ")
        for index in reversed(range(len(made.rules))):
            rule = made.rules[index]
            own, shared = str(rule["path"]), _intersection(str(rule["path"]), _template(path))
            if rule["method"] != method or shared is None or shared == own != _template(path):
                continue  # the tool's own rule is the more specific one
            if shared == own or _RULE_PATH.fullmatch(shared) is None:
                del made.rules[index], made.tools[index]
                gone = made.review.pop(index)
                calls.append(gone.call)
                made.left_out.append((gone.call, f"its path also reaches {call}, which is left out"))
            else:
                which: Table = {"api": "main", "method": method, "path": shared, "scopes": rule["scopes"]}
                closed[method, shared] = {**which, "where": {"closed": _NEVER}, "tells_secrets": True}
    made.rules += closed.values()


def without_calls(rules: Sequence[Table], tools: Sequence[Table], left: Sequence[Table]) -> Sequence[Table]:
    """Rules that close the calls of the `left` rules, if those of the tools would allow them. A rule that matches one
    document literally leaves nothing open. Raises InseparableTool if such a call can't be closed separately.
    """
    calls = [f"{rule['method']} {rule['path']}" for rule in rules]
    names = {call: str(tool["name"]) for call, tool in zip(calls, tools, strict=True)}
    made = _ImportDraft(rules=list(rules), tools=list(tools))
    made.review = [ReviewedTool(names[call], call, "", "", "", (), ()) for call in calls]
    made.closed = [f"{rule['method']} {rule['path']}" for rule in left if "where" not in rule]
    if made.closed:
        _close(made)
    if made.left_out:
        raise InseparableTool(names[made.left_out[0][0]])
    return made.rules[len(rules) :]


def _template(path: str) -> str:
    return re.sub(r"\{[^{}]*\}", "{}", path)


def _intersection(rule: str, other: str) -> str | None:
    """The template of the paths that fit both, if one can be written; None if no path fits both."""
    if rule.count("/") != other.count("/"):
        return None
    steps = list(zip(rule.split("/"), other.split("/"), strict=True))
    if any(a != b and "{" not in a and "{" not in b for a, b in steps):
        return None
    return "/".join(b if a == "{}" else a for a, b in steps)


def _add(document: OpenAPIDocument, operation: OpenAPIOperation, name: str, made: _ImportDraft) -> None:
    """The rule, the tool, and the scopes of one operation. Raises LeftOut."""
    if operation.content.get("deprecated") is True:
        raise LeftOut("it is deprecated")
    if _PATH.fullmatch(operation.path) is None:
        raise LeftOut("its path has parts that are no whole segments")
    answers = _answers(document, operation)
    answer = answers[0] if answers else None
    secret = next((one for one in _all_members(document, answers) if CREDENTIAL.search(one)), None)
    if secret is not None:
        raise LeftOut(f"its answer has {secret}, which is named like a credential")
    scopes, titles = _scopes(document, operation, name)
    result = _result(document, answer, is_read=operation.method == "GET")
    arguments, skipped = _arguments(document, operation)
    tool_name = _tool_name(operation, name, taken={str(one["name"]) for one in made.tools})
    request: Table = {"api": "main", "method": operation.method, "path": _with_names(operation.path, arguments)}
    title = one_line(text_of(operation.content.get("summary")) or tool_name.replace("_", " "), limit=80)
    tool: Table = {
        "name": tool_name,
        "title": title,
        "description": one_line(text_of(operation.content.get("description")) or title, limit=300),
        "scopes": list(scopes),
        "effect": _EFFECTS[operation.method],
    }
    if operation.method != "GET":
        tool["approval"] = True
    tool["request"] = request
    tool["arguments"] = {one: about for one, (_, about) in arguments.items()}
    tool["result"] = result
    try:
        Tool.model_validate(tool)
    except ValidationError as refused:
        raise LeftOut(f"it makes a tool with a problem: {refused.errors()[0]['msg']}") from refused
    made.tools.append(tool)
    made.rules.append(_rule(operation, arguments, scopes))
    made.scopes |= {scope: {"title": title} for scope, title in titles.items() if scope not in made.scopes}
    texts = (title, str(tool["description"]))
    made.review.append(ReviewedTool(tool_name, operation.call, *texts, _EFFECTS[operation.method], scopes, skipped))


def _rule(operation: OpenAPIOperation, arguments: Mapping[str, tuple[str, Table]], scopes: Sequence[str]) -> Table:
    rule: Table = {
        "api": "main",
        "method": operation.method,
        "path": _template(operation.path),
        "scopes": [scopes[0]],
    }
    if scopes[1:]:
        rule["needs"] = list(scopes[1:])
    for place in ("query", "body"):
        names = sorted(
            {str(about.get("as", one)).split(".")[0] for one, (at, about) in arguments.items() if at == place}
        )
        if names:
            rule[place] = names
    return rule


def _scopes(
    document: OpenAPIDocument, operation: OpenAPIOperation, name: str
) -> tuple[Sequence[str], Mapping[str, str]]:
    """The scopes that the call needs, and their titles: the document's scopes, or one for reading and one for
    changing."""
    schemes = document.oauth_schemes()
    security = document.security(operation)
    for alternative in list_of(security):
        document.spend()
        for scheme, told in object_of(alternative).items():
            found = [text_of(one) for one in list_of(told)]
            if scheme in schemes and found and all(_SCOPE.fullmatch(one) for one in found):
                return found, {one: one_line(schemes[scheme].get(one) or one, limit=120) for one in found}
    if operation.method == "GET":
        return [f"{name}:read"], {f"{name}:read": "Read what you can see there"}
    return [f"{name}:write"], {f"{name}:write": "Create, change, and delete there"}


def _tool_name(operation: OpenAPIOperation, name: str, *, taken: set[str]) -> str:
    told = text_of(operation.content.get("operationId"))[:200] or f"{operation.method} {operation.path}"
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", told)
    plain = "_".join(part for part in re.split(r"[^a-z0-9]+", words.lower()) if part)
    first = name.replace("-", "_")
    made = plain if plain.startswith(f"{first}_") else f"{first}_{plain}"
    made = made[:56].rstrip("_")
    number = 2
    found = made
    while found in taken:
        found, number = f"{made}_{number}", number + 1
    return found


def _arguments(
    document: OpenAPIDocument, operation: OpenAPIOperation
) -> tuple[Mapping[str, tuple[str, Table]], list[str]]:
    """Name -> place and declaration; and the optional ones that are left out. Raises LeftOut."""
    found: dict[str, tuple[str, Table]] = {}
    skipped: list[str] = []
    styles = {text_of(one.get("name")): one for one in operation.parameters if one.get("in") == "query"}
    for place, sent, schema, required, words in _inputs(document, operation):
        about = None if CREDENTIAL.search(sent) or is_method_parameter(sent) else _argument(document, schema)
        if place == "query" and about is not None and about.get("type") == "texts":
            about = _with_style(about, styles[sent])
        if argument_name(sent, taken={}) == "cursor" or (place == "path" and not _fits_path(about)):
            about = None  # paging needs the path of the next cursor in the answer, which documents don't have
        if place not in {"path", "query", "body"} or about is None or len(found) == ARGUMENTS:
            if required:
                raise LeftOut(f"it needs {sent} ({place}), which a tool can't send")
            skipped.append(sent)
            continue
        name = argument_name(sent, taken=found)
        declared: Table = {"description": one_line(words or sent, limit=200), **about}
        if name != sent and place != "path":
            declared["as"] = sent
        if place == "path":
            if declared.get("type", "text") == "text" and "choices" not in declared:
                declared["pattern"] = _ID
        elif not required:
            declared["required"] = False
        if place != ("body" if operation.method in ("POST", "PUT", "PATCH") else "query") and place != "path":
            declared["place"] = place
        found[name] = (place, declared)
    expected = re.findall(r"\{([^{}]*)\}", operation.path)
    if len([one for one, (place, _) in found.items() if place == "path"]) != len(set(expected)):
        raise LeftOut("it doesn't describe every parameter of its path")
    return found, skipped


def _fits_path(about: Table | None) -> bool:
    return about is not None and about.get("type", "text") in {"text", "integer"}


def _inputs(document: OpenAPIDocument, operation: OpenAPIOperation) -> Iterator[tuple[str, str, Schema, bool, str]]:
    """Place, name, schema, whether required, and description of everything that it takes."""
    for one in operation.parameters:
        place, sent = text_of(one.get("in")), text_of(one.get("name"))
        if place in {"path", "query"} and _SENT.fullmatch(sent) is None:
            place = "a name of other characters"
        required = one.get("required") is True
        yield place, sent, document.resolve(one.get("schema", {})), required, text_of(one.get("description"))
    body = operation.content.get("requestBody")
    if body is None:
        return
    if operation.method not in ("POST", "PUT", "PATCH"):
        raise LeftOut("it has a body, which this method doesn't send")
    schema = document.json_of(body)
    if schema is None:
        raise LeftOut("its body isn't JSON")
    if document.kind(schema) != "object":
        raise LeftOut("its body isn't an object")
    yield from _members_of_body(document, schema, "", is_needed=True)


def _members_of_body(
    document: OpenAPIDocument, schema: Schema, way: str, *, is_needed: bool
) -> Iterator[tuple[str, str, Schema, bool, str]]:
    required = document.required_members(schema)
    for name, value in document.members(schema).items():
        if value.get("readOnly") is True:
            continue
        needed = is_needed and name in required
        if document.kind(value) == "object" and not way and document.members(value):
            yield from _members_of_body(document, value, f"{name}.", is_needed=needed)
        else:
            place = "body" if _SENT.fullmatch(name) and "." not in name else "a name of other characters"
            yield place, way + name, value, needed, text_of(value.get("description"))


def _argument(document: OpenAPIDocument, schema: Schema) -> Table | None:
    """How an argument of this schema is declared; None if it can't be."""
    kind = document.kind(schema)
    if kind == "array":
        return {"type": "texts", "max": 50} if document.kind(document.items(schema)) == "string" else None
    if kind not in _KINDS:
        return None
    made: Table = {} if kind == "string" else {"type": _KINDS[kind]}
    words = list_of(schema.get("enum"))
    document.spend(len(words))
    if kind == "string" and words:
        fitting = [one for one in words if isinstance(one, str) and one]
        return {"choices": fitting} if len(fitting) <= CHOICES else None
    low, high = ("minimum", "maximum") if kind != "string" else ("minLength", "maxLength")
    for bound, key in ((low, "min"), (high, "max")):
        value = schema.get(bound)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST_BOUND:
            continue
        if value == int(value) and (kind != "string" or value >= 0):
            made[key] = int(value)
    return made


def _with_style(about: Table, parameter: Schema) -> Table | None:
    """A list in the query, in the style of its parameter: repeated, or joined to one text; None if unknown."""
    style = text_of(parameter.get("style")) or "form"
    if style not in _SEPARATORS:
        return None
    explode = parameter.get("explode")
    return (
        about
        if explode is True or (explode is None and style == "form")
        else {**about, "separator": _SEPARATORS[style]}
    )


def argument_name(sent: str, *, taken: Mapping[str, object]) -> str:
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", sent).lower()
    plain = "_".join(part for part in re.split(r"[^a-z0-9]+", words) if part)[:50].rstrip("_") or "value"
    plain = plain if plain[0].isalpha() else f"value_{plain}"
    plain = f"{plain}_value" if plain == "account" else plain
    found, number = plain, 2
    while found in taken:
        found, number = f"{plain}_{number}", number + 1
    return found


def _with_names(path: str, arguments: Mapping[str, tuple[str, Table]]) -> str:
    """The path with the arguments' names for the document's."""
    names = {argument_name(sent, taken={}): sent for sent in re.findall(r"\{([^{}]*)\}", path)}
    made = path
    for name, sent in names.items():
        if name not in arguments:
            raise LeftOut("two parameters have the same name")
        made = made.replace(f"{{{sent}}}", f"{{{name}}}")
    return made


def _answers(document: OpenAPIDocument, operation: OpenAPIOperation) -> Sequence[Schema]:
    """The JSON schemas of every success answer, or of answers with any status."""
    responses = object_of(operation.content.get("responses")).items()
    good = [response for status, response in responses if str(status).startswith("2")]
    rest = [response for status, response in responses if str(status) == "default"]
    return [found for one in (*good, *rest) if (found := document.json_of(one)) is not None]


def _all_members(document: OpenAPIDocument, answers: Sequence[Schema]) -> Iterator[str]:
    """The names of all members of the answers, each schema once, outer ones first."""
    seen: set[int] = set()
    level = list(answers)
    for _ in range(_DEEPEST):
        inner: list[Schema] = []
        for schema in level:
            if id(schema) in seen:
                continue
            seen.add(id(schema))
            members = document.members(schema)
            yield from members
            inner += members.values()
            inner += [document.resolve(schema[one]) for one in ("items", "additionalProperties") if _has(schema, one)]
        level = inner


def _has(schema: Schema, name: str) -> bool:
    return isinstance(schema.get(name), dict)


def _result(document: OpenAPIDocument, answer: Schema | None, *, is_read: bool) -> Table:
    """What is returned: a list if the answer has one, otherwise its plain values."""
    if answer is not None:
        lists = {"items": answer} if document.kind(answer) == "array" else document.members(answer)
        of_objects = {
            name: document.items(one)
            for name, one in lists.items()
            if document.kind(one) == "array" and document.members(document.items(one)) and _SENT.fullmatch(name)
        }
        if len(of_objects) == 1:
            ((name, item),) = of_objects.items()
            if fields := _fields(document, item):
                return {"items": name, "line": readable_line(fields), "fields": fields}
        if fields := _fields(document, answer):
            return {"line": readable_line(fields), "fields": fields}
    if is_read:
        raise LeftOut("the document doesn't say what its answer has in it")
    return {"line": "Done."}


def _fields(document: OpenAPIDocument, schema: Schema) -> dict[str, Table]:
    found: dict[str, Table] = {}
    for way, value in _values(document, schema):
        kind = document.kind(value)
        if kind in _KINDS and len(found) < FIELDS and not CREDENTIAL.search(way):
            name = argument_name(way, taken=found)
            found[name] = {"path": way, "type": _KINDS[kind]}
    return found


def _values(document: OpenAPIDocument, schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Plain values first, then those one object below."""
    members = {name: one for name, one in document.members(schema).items() if re.fullmatch(r"[A-Za-z0-9_@$-]+", name)}
    yield from members.items()
    for name, value in members.items():
        if document.kind(value) == "object":
            for inner, one in document.members(value).items():
                if re.fullmatch(r"[A-Za-z0-9_@$-]+", inner):
                    yield f"{name}.{inner}", one


def readable_line(fields: Mapping[str, Table]) -> str:
    return " ".join(f"{name}: {{{name}}}" for name in list(fields)[:6])


def one_line(value: object, *, limit: int) -> str:
    """One line of the document's text."""
    return as_data(" ".join(text_of(value)[: 20 * limit].split()), limit=limit).strip() or "-"
