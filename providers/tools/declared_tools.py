"""Tools made from declarations: models for their arguments and results, and the code that makes their calls. An
argument reaches only its own place: one path segment, one query parameter, one value in the body. Parts of the answer
outside the declared fields aren't returned.
"""

from __future__ import annotations

import functools
import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, create_model

from providers.api.api import UpstreamAPI, UpstreamRefused, Value, is_form
from providers.api.rules import Payload, changes_method, expand, of_path, unknown
from providers.api.text import as_data, as_id, quote
from providers.definitions.catalog import Catalog
from providers.definitions.credential import CredentialField
from providers.definitions.model import Provider
from providers.definitions.suggestions import did_you_mean
from providers.outbound.json_values import at, integer_at, is_array, is_object, objects_at, put, text_at, texts_at
from providers.tools.declarations import Argument, Output, Tool, ToolFile, ToolFileRefused
from providers.tools.graphemes import count_graphemes
from providers.tools.presentation import problem
from providers.tools.spec import UNTRUSTED, Progress, ToolInput, ToolOutput, ToolSpec

LIST_BUDGET: Final = 40_000  # characters of texts in one answer; later items are left out
_DONE: Final = "Done."
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_PLACE: Final = re.compile(r"\{([^{}]*)\}")
_WORD: Final = re.compile(r"[\x21-\x7e]+")
_TYPES: Final[Mapping[str, Any]] = {  # pydantic takes types as values
    "text": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "time": AwareDatetime,
    "date": date,
    "texts": list[str],
}


def tool_of(declared: Tool, provider: Provider, *, source: Path) -> ToolSpec:
    """The tool, checked against its provider. Raises ToolFileRefused."""
    _check(declared, provider, source)
    runner, arguments = _made_of(declared)
    return ToolSpec(
        name=declared.name,
        title=declared.title,
        description=declared.description,
        provider=provider.name,
        scopes=declared.scopes,
        effect=declared.effect,
        input=arguments,
        output=runner.output,
        call=runner.call,
        approval=declared.approval,
        presentation=declared.presentation,
    )


@functools.lru_cache(maxsize=2048)
def _made_of(declared: Tool) -> tuple[_Runner, type[BaseModel]]:
    """Models take milliseconds to build, and providers change more often than tools."""
    return _Runner(declared), _input_model(declared)


def data_tools(files: Sequence[tuple[Path, ToolFile]], catalog: Catalog) -> tuple[ToolSpec, ...]:
    """The tools of these files. Raises ToolFileRefused for an unknown provider, or a name that is taken twice."""
    made: dict[str, ToolSpec] = {}
    for source, content in files:
        provider = catalog.get(content.provider)
        if provider is None:
            near = did_you_mean(content.provider, catalog.names) or " See token-vault providers list"
            raise ToolFileRefused(f"{source}: no provider {content.provider}.{near}")
        for declared in content.tool:
            if declared.name in made:
                raise ToolFileRefused(f"{source}: {declared.name}: another tool has this name")
            made[declared.name] = tool_of(declared, provider, source=source)
    return tuple(made.values())


def _check(declared: Tool, provider: Provider, source: Path) -> None:
    where = f"{source}: {declared.name}"
    if declared.request.api not in provider.apis:
        raise ToolFileRefused(
            f"{where}: {provider.name} has no API {declared.request.api!r}: {', '.join(provider.apis)}"
        )
    missing = declared.scopes - provider.scopes.keys()
    if missing:
        raise ToolFileRefused(f"{where}: {provider.name} has no scope {', '.join(sorted(missing))}")
    path = declared.request.path
    for name in declared.request.placeholders:
        path = path.replace(f"{{{name}}}", "x")
    # the call itself also checks whether the parameters fit
    rules = of_path(provider, api=declared.request.api, method=declared.request.method, path=path)
    held = expand(provider, declared.scopes)
    if all(rule.scopes.isdisjoint(held) or not rule.needs <= held or rule.tells_secrets for rule in rules):
        raise ToolFileRefused(
            f"{where}: no request rule of {provider.name} lets {', '.join(sorted(declared.scopes))} "
            f"call {declared.request.method} {declared.request.path}: add a [[rules]] entry to the "
            "provider's file"
        )
    query = query_names(declared)
    payload = Payload(query, whole_body(declared))
    strange = [unknown(provider, rule, payload) for rule in rules if not rule.scopes.isdisjoint(held)]
    if provider.audience is None and all(strange):
        names = ", ".join(sorted(min(strange, key=len)))
        raise ToolFileRefused(
            f"{where}: no request rule of {provider.name} knows {names} in the query or body of "
            f"{declared.request.path}: add it to `query` or `body` of the rule in the provider's file, if it shows and "
            "reaches nothing beyond the rule's scopes"
        )
    if (wrong := problem(declared.presentation, provider, (*declared.arguments, "account"))) is not None:
        raise ToolFileRefused(f"{where}: {wrong}")
    headers = {one.name or name for name, one in declared.arguments.items() if one.place == "header"}
    headers |= declared.request.headers.keys() - {"content-type"}
    ours = {"accept", "content-type", provider.authorization.header.lower(), *map(str.lower, provider.headers)}
    if strangers := sorted(headers - (provider.proxied.headers - ours)):
        raise ToolFileRefused(
            f"{where}: {provider.name} takes no header {strangers[0]} of a call: "
            + (
                "the vault sends its own"
                if strangers[0] in ours
                else "add it, in lower case, to `proxied.headers` of the file"
            )
        )
    many = {name for name, about in _fields(provider).items() if about.many}
    for name, one in declared.arguments.items():
        if one.place == "choice" and (one.name or name) not in many:
            raise ToolFileRefused(f"{where}: {provider.name} takes several values in {', '.join(many) or 'no field'}")
    for name in (*query, *declared.request.body):
        if changes_method(provider, name):
            raise ToolFileRefused(f"{where}: {name} changes the method of the call; write the method in `method`")
    _check_body(declared, where)


def _check_body(declared: Tool, where: str) -> None:
    """Refuse a content type that bodies aren't sent as, and values that a form would lose."""
    headers = declared.request.headers
    if "content-type" not in headers or declared.request.method not in _WITH_BODY:
        return
    if not is_form(headers):
        if "json" not in headers["content-type"].partition(";")[0].lower():
            raise ToolFileRefused(f"{where}: a body is sent as JSON or as a form, not as {headers['content-type']}")
        return
    sent = {
        name: argument for name, argument in declared.arguments.items() if _place(declared, name, argument) == "body"
    }
    for name in (*declared.request.body, *(argument.name or name for name, argument in sent.items())):
        if "." in name:
            raise ToolFileRefused(f"{where}: a form can't send {name}, a member of an object")
    for name, argument in sent.items():
        if argument.template is None and argument.type == "number":
            raise ToolFileRefused(f"{where}: a form can't send the number {name}: make it an integer or a text")
        if argument.type == "texts" and argument.separator is None:
            raise ToolFileRefused(f"{where}: a form can't send the list {name}: give it a `separator`")


def _fields(provider: Provider) -> Mapping[str, CredentialField]:
    return {} if provider.credential is None else provider.credential.fields


def _place(declared: Tool, name: str, argument: Argument) -> str:
    """The place of an argument: "path", "query", "body", "header", or "choice"."""
    if argument.place is not None or name in declared.request.placeholders:
        return argument.place or "path"
    return "body" if declared.request.method in _WITH_BODY else "query"


def query_names(declared: Tool) -> frozenset[str]:
    arguments = declared.arguments.items()
    named = {one.name or name for name, one in arguments if _place(declared, name, one) == "query"}
    return frozenset(declared.request.query) | named


def whole_body(declared: Tool) -> Mapping[str, object]:
    """A body with every member that a call can have."""
    body: dict[str, object] = {}
    for name, value in declared.request.body.items():
        put(body, name, value)
    for name, argument in declared.arguments.items():
        if _place(declared, name, argument) == "body":
            put(body, argument.name or name, "")
    return body


def _input_model(declared: Tool) -> type[BaseModel]:
    fields: dict[str, Any] = {name: _input_field(argument) for name, argument in declared.arguments.items()}
    return create_model(f"{declared.name}_input", __base__=ToolInput, **fields)


def _input_field(argument: Argument) -> tuple[Any, Any]:
    kind: Any = Literal[argument.choices] if argument.choices else _TYPES[argument.type]
    bounds: dict[str, Any] = {}
    if argument.type in {"integer", "number"}:
        bounds = {"ge": argument.min, "le": argument.max}
    elif argument.type in {"text", "texts"} and not argument.choices:
        bounds = {"min_length": argument.min if argument.min is not None else 1, "max_length": argument.max or 10_000}
    if argument.pattern is not None and argument.type == "text":
        bounds["pattern"] = argument.pattern
    if argument.type == "integer":
        bounds["strict"] = True
    kind = Annotated[kind, Field(**bounds)]
    if argument.graphemes is not None or argument.bytes is not None:
        kind = Annotated[kind, AfterValidator(functools.partial(_check_size, argument))]
    if argument.required:
        return kind, Field(description=argument.description)
    if argument.default is not None:
        return kind, Field(default=argument.default, description=argument.description)
    return kind | None, Field(default=None, description=argument.description)


def _check_size(argument: Argument, text: str) -> str:
    if argument.graphemes is not None and (found := count_graphemes(text)) > argument.graphemes:
        raise ValueError(f"it has {found} characters: write at most {argument.graphemes}")
    if argument.bytes is not None and (size := len(text.encode())) > argument.bytes:
        raise ValueError(f"it has {size} bytes in UTF-8: write at most {argument.bytes}")
    return text


def _output_type(output: Output) -> Any:
    match output.type:
        case "text" | "word" | "base64" | "json":
            return str | None
        case "integer":
            return int | None
        case "number":
            return float | None
        case "boolean":
            return bool | None
        case "texts":
            return list[str]


def _output_fields(fields: Mapping[str, Output]) -> dict[str, Any]:
    return {field: (_output_type(output), Field(description=output.description)) for field, output in fields.items()}


@dataclass(frozen=True, slots=True)
class _FilledRequest:
    """The parts of one call."""

    segments: tuple[str, ...]
    query: Mapping[str, Value]
    body: Mapping[str, object]
    headers: Mapping[str, str] = field(repr=False)
    choice: Mapping[str, str]  # choices from the account's values


class _Runner:
    """Makes calls as declared, and builds the result from the answer."""

    def __init__(self, declared: Tool) -> None:
        self._tool = declared
        self._template = declared.request.path
        for name in declared.request.placeholders:
            self._template = self._template.replace(f"{{{name}}}", "{}")
        in_words = self._in_words

        class Readable(ToolOutput):
            def __str__(self) -> str:
                return in_words(self)

        fields = _output_fields(declared.result.fields)
        if declared.result.items is None:
            self._item = self.output = create_model(f"{declared.name}_output", __base__=Readable, **fields)
        else:
            self._item = create_model(f"{declared.name}_item", __base__=ToolOutput, **fields)
            listed: dict[str, Any] = {
                "items": (list[self._item], Field()),
                "next_cursor": (
                    str | None,
                    Field(description="Pass this as `cursor` to get the next page, if there is one"),
                ),
                "is_cut": (bool, Field(description="Whether items were left out because of the size limit")),
            }
            self.output = create_model(f"{declared.name}_output", __base__=Readable, **listed)

    async def call(self, api: UpstreamAPI, arguments: BaseModel, progress: Progress) -> BaseModel:
        request = self._tool.request
        sent = self._fill_request(arguments)
        answer = await api.send(
            request.method,
            request.api,
            self._template,
            segments=sent.segments,
            params=sent.query,
            body=sent.body if request.method in _WITH_BODY else None,
            headers=sent.headers,
            choice=sent.choice,
            is_write=self._tool.effect != "read",
        )
        result = self._tool.result
        is_null = self._is_done_with_null(answer)
        if result.needs is not None and at(answer, result.needs) is None and not is_null:
            message = text_at(answer, "errors.0.message") or "it didn't say why"
            raise UpstreamRefused("refused", f"{api.title} rejected the call: {as_data(message, limit=200)}")
        if any(at(answer, path) != value for path, value in result.expect.items()):
            raise self._refusal_of_shape(api)
        if result.items is None:
            values = self._values(answer)
            if not self._is_expected(values):
                raise self._refusal_of_shape(api)
            return self._item(**values)
        if not is_array(at(answer, result.items)) and answer and not (result.omits_empty or is_null):
            raise self._refusal_of_shape(api)
        found, is_cut = self._list_items(answer)
        has_more = result.more is None or at(answer, result.more) not in (None, False)
        cursor = text_at(answer, result.next) if result.next is not None and has_more else None
        cursor = None if cursor is None else cursor[:2000]
        return self.output.model_validate({"items": found, "next_cursor": cursor, "is_cut": is_cut})

    def _is_done_with_null(self, answer: object) -> bool:
        """Whether the answer at `needs` is null without an error, if the declaration counts that as done."""
        parent, _, leaf = (self._tool.result.needs or "").rpartition(".")
        found = at(answer, parent)
        is_null = is_object(found) and leaf in found and found[leaf] is None
        return self._tool.result.allows_null and is_null and not at(answer, "errors")

    def _is_expected(self, values: Mapping[str, object]) -> bool:
        """Whether a read returned anything, and text where it reads text. A write may have an empty answer."""
        if self._tool.effect != "read":
            return True
        fields = self._tool.result.fields
        return any(value not in (None, []) for value in values.values()) and not any(
            values[name] is None for name, output in fields.items() if output.type == "base64"
        )

    def _refusal_of_shape(self, api: UpstreamAPI) -> UpstreamRefused:
        said = self._tool.result.otherwise or f"{api.title}'s answer isn't what this tool reads. Check its arguments."
        return UpstreamRefused("unexpected_answer", said)

    def _list_items(self, answer: Mapping[str, object]) -> tuple[list[BaseModel], bool]:
        found: list[BaseModel] = []
        left = LIST_BUDGET
        for item in objects_at(answer, self._tool.result.items or ""):
            made = self._item(**self._values(item))
            left -= len(made.model_dump_json())
            if left < 0 and found:
                return found, True
            found.append(made)
        return found, False

    def _fill_request(self, arguments: BaseModel) -> _FilledRequest:
        request = self._tool.request
        segments: dict[str, str] = {}
        query: dict[str, Value] = dict(request.query)
        body: dict[str, object] = {}
        headers, choice = dict(request.headers), dict[str, str]()
        for name, value in request.body.items():
            put(body, name, value)
        for name, argument in self._tool.arguments.items():
            value: object = getattr(arguments, name)
            if value is None:
                continue
            wire = _wire(value, argument)
            place = _place(self._tool, name, argument)
            if place == "path":
                segments[name] = str(wire)
            elif place == "body":
                put(body, argument.name or name, wire)
            elif place == "header":
                headers[argument.name or name] = str(wire)
            elif place == "choice":
                choice[argument.name or name] = str(wire)
            elif is_array(wire):
                query[argument.name or name] = [str(one) for one in wire]
            else:
                query[argument.name or name] = wire if isinstance(wire, str | int) else str(wire)
        return _FilledRequest(tuple(segments[name] for name in request.placeholders), query, body, headers, choice)

    def _values(self, item: Mapping[str, object]) -> dict[str, object]:
        return {name: _read(item, output) for name, output in self._tool.result.fields.items()}

    def _in_words(self, output: BaseModel) -> str:
        """A readable form: the provider's text is in quotation marks, below a line that explains it."""
        result = self._tool.result
        if result.items is None:
            if result.allows_null and all(value in (None, []) for value in output.model_dump().values()):
                return _DONE
            line = _line(result.line, output)
            return f"{UNTRUSTED}\n{line}" if self._tool.effect == "read" else line
        listed: object = getattr(output, "items", None)
        lines = [_line(result.line, item) for item in listed if isinstance(item, BaseModel)] if is_array(listed) else []
        rest = (
            ["Some items were left out because of the size limit: ask for fewer at a time."]
            if getattr(output, "is_cut", False)
            else []
        )
        if getattr(output, "next_cursor", None):  # a page before the last one may be short, or empty
            rest.append("There are more: call again with `cursor`.")
        if not lines and result.allows_null:
            return _DONE
        if not lines:
            return "\n".join(["Nothing was found here.", *rest]) if rest else "Nothing was found."
        return "\n".join([UNTRUSTED, *lines, *rest])


def _wire(value: object, argument: Argument) -> object:
    """The argument in the form that the provider wants."""
    made: object = value
    if argument.type == "time":
        made = _time(value, argument.send)
    elif argument.type == "date":
        made = str(value)
    elif is_array(value):
        made = value if argument.separator is None else argument.separator.join(str(one) for one in value)
    elif argument.send == "integer":
        made = int(str(value))
    if argument.escape and isinstance(made, str):
        made = "".join(f"\\{one}" if one in argument.escape else one for one in made)
    return made if argument.template is None else argument.template.replace("{}", str(made))


def _time(value: object, form: str) -> object:
    if not isinstance(value, datetime):
        raise TypeError("a time was expected")
    if form == "rfc3339":
        return value.isoformat()
    if form == "utc":
        return value.astimezone(UTC).replace(tzinfo=None).isoformat()
    if form == "zulu":
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    seconds = value.timestamp()
    return int(seconds) if form == "seconds" else int(seconds * 1000)


def _first_text(item: Mapping[str, object], output: Output) -> str | None:
    return next((found for path in output.paths if (found := text_at(item, path)) is not None), None)


def _text(item: Mapping[str, object], output: Output) -> str | None:
    found = _first_text(item, output)
    if found is None:
        return None
    made = as_id(found, limit=output.max) if output.type == "word" else as_data(found, limit=output.max)
    return made if output.template is None else output.template.replace("{}", made)


def _as_json(item: Mapping[str, object], output: Output) -> str | None:
    found = next((found for path in output.paths if (found := at(item, path)) is not None), None)
    return None if found is None else as_data(json.dumps(found, ensure_ascii=False), limit=output.max)


def _decode(item: Mapping[str, object], output: Output) -> str | None:
    """Decode text that was sent as base64 (RFC 4648, either alphabet, any lines and padding)."""
    found = next((found for path in output.paths if isinstance(found := at(item, path), str)), None)
    if found is None:
        return None
    letters = "".join(found.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return as_data(b64decode(letters + "=" * (-len(letters) % 4), validate=True).decode(), limit=output.max)
    except (ValueError, UnicodeDecodeError):
        return None


def _number(item: Mapping[str, object], output: Output) -> float | None:
    found = at(item, output.paths[0])
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def _boolean(item: Mapping[str, object], output: Output) -> bool | None:
    found = at(item, output.paths[0])
    return found if isinstance(found, bool) else None


def _texts(item: Mapping[str, object], output: Output) -> list[str]:
    """The texts of an array, or those at the same path in each of its objects: `labels.name`, `tasks.task.id`."""
    return [as_data(one, limit=output.max) for one in islice(texts_at(item, output.paths[0]), 100)]


def _integer(item: Mapping[str, object], output: Output) -> int | None:
    return integer_at(item, output.paths[0])


_READERS: Final[Mapping[str, Callable[[Mapping[str, object], Output], object]]] = {
    "text": _text,
    "word": _text,
    "base64": _decode,
    "json": _as_json,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "texts": _texts,
}


def _read(item: Mapping[str, object], output: Output) -> object:
    return _READERS[output.type](item, output)


def _line(template: str, values: BaseModel) -> str:
    """The template with each value filled in: words and numbers unchanged, other people's text in quotation marks."""
    return _PLACE.sub(lambda found: _as_text(getattr(values, found[1])), template)


def _as_text(value: object) -> str:
    if is_array(value):
        return ", ".join(quote(str(one)) for one in value) or "none"
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) is not None else quote(value)
    return "none" if value is None else str(value)
