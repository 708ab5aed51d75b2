"""The declarative model of a tool: a TOML file's description of one call to a provider's API.

One file holds tools of one provider. This module reads and checks files; `providers.tools.declared_tools` turns a
declaration into a tool and runs it. The provider's request rules still decide what a call may reach.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from providers.definitions.file_errors import reason_of
from providers.definitions.suggestions import what_is_wrong
from providers.outbound.json_values import is_array, is_object
from providers.tools.presentation import DEFAULT, Presentation
from providers.tools.spec import Effect

BUILT_IN: Final = Path(__file__).parent.parent / "toolset"
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$", max_length=60)]
Path_ = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_@$-]+(\.[A-Za-z0-9_@$-]+)*$", max_length=120)]
# Name of an argument's parameter, including a repeatable query parameter such as `statuses[]`, or `page[size]`.
SentName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_@$-]+(\.[A-Za-z0-9_@$-]+)*(\[[A-Za-z0-9_-]*\])?$", max_length=120)
]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$", max_length=60)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000, strip_whitespace=True)]
Scalar = str | int | bool
_DIGITS: Final = re.compile(r"\^\[0-9\]\{1,[0-9]{1,2}\}\$")  # a pattern of digits alone


class ToolFileRefused(Exception):
    """A tool file can't be used; one line that names file, tool and fix."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Argument(_Part):
    """One argument. Without `default` and with `required = true` it must be given.

    It goes into the path if its name is there in braces, otherwise into the query of a read and the body of a write,
    under `as` (dotted below objects in the body, a number for a place in a list). A header must be one of the
    provider's `proxied.headers`, a `choice` a field of its credential with several values. `template` puts it into a
    longer text, in place of `{}`, after escaping each character of `escape` with a backslash. A list without a
    `separator` repeats its parameter in the query, and is a list in the body.
    """

    type: Literal["text", "integer", "number", "boolean", "time", "date", "texts"] = "text"
    description: Text
    required: bool = True
    default: Scalar | None = None
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    min: int | None = None  # a number's value, a text's length, or a list's size
    max: int | None = None
    place: Literal["path", "query", "body", "header", "choice"] | None = None
    name: SentName | None = Field(default=None, alias="as")
    template: str | None = None
    escape: str = ""  # special characters of the provider's text format
    separator: str | None = None  # joins a list into one text
    # format of a time; utc: without an offset; zulu: UTC in milliseconds, with Z; integer: a text of digits as a number
    send: Literal["rfc3339", "utc", "zulu", "seconds", "milliseconds", "integer"] = "rfc3339"
    graphemes: int | None = Field(default=None, ge=1)  # maximum in a text, counting what people see as one character
    bytes: int | None = Field(default=None, ge=1)  # maximum number in a text, in UTF-8

    @model_validator(mode="after")
    def _fits_together(self) -> Argument:
        if self.pattern is not None:
            if not (self.pattern.startswith("^") and self.pattern.endswith("$")):
                raise ValueError("start the pattern with ^ and end it with $")
            re.compile(self.pattern)
        if self.default is not None and self.required:
            raise ValueError("an argument with a default isn't required: set required = false")
        if self.choices and self.type != "text":
            raise ValueError("choices work with text only")
        if self.send == "integer" and (self.type != "text" or _DIGITS.fullmatch(self.pattern or "") is None):
            raise ValueError('send = "integer" needs a text with a pattern such as ^[0-9]{1,16}$')
        is_list = self.type == "texts" and self.separator is None
        if is_list and (self.template is not None or self.escape or self.place in {"header", "choice"}):
            raise ValueError("give the list a separator, which makes it a text")
        return self


class Output(_Part):
    """One value of the result, read at `path` in the answer (the first of several that exists). Absent values are null;
    texts are data, and are cut. A `word` is cleaned to visible ASCII; `base64` is decoded to text, or null if it isn't
    text; `json` is any value, written as JSON text.
    """

    path: Path_ | tuple[Path_, ...]
    type: Literal["text", "word", "base64", "json", "integer", "number", "boolean", "texts"] = "text"
    description: Text | None = None
    max: int = Field(default=500, ge=1, le=20_000)  # characters
    template: str | None = None  # a text around the value, such as a link

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,) if isinstance(self.path, str) else self.path


class Result(_Part):
    """What to return of the answer. With `items`, a list of objects at that path (`items` for a top-level list).

    An answer with another shape is refused, never shown as empty: no list at `items`, unless the service `omits_empty`
    ones; a read without any field that has a value; another value at a path of `expect`; or `base64` that isn't text.
    `else` is the text for that.
    """

    items: Path_ | None = None
    fields: Mapping[Name, Output] = Field(default_factory=dict[str, Output])  # a write may return none
    needs: Path_ | None = None  # must be present, otherwise the answer means that nothing was done (GraphQL)
    allows_null: bool = False  # about `needs`: null without `errors` means that it was done
    omits_empty: bool = False
    expect: Mapping[Path_, Scalar] = Field(default_factory=dict[str, Scalar])
    otherwise: Text | None = Field(default=None, alias="else")
    next: Path_ | None = None  # path of the value to pass as `cursor` for the next page
    more: Path_ | None = None  # about `next`: false or absent after the last page, if the service still sends a cursor
    line: Text  # a readable line per item, or for the whole answer; `{name}` is replaced by a value


class Request(_Part):
    """The call: one method and path of one of the provider's APIs. `query`, `body`, and `headers` are sent unchanged.

    Headers are among the provider's `proxied.headers`, or `content-type`, which makes the body a form if it names one.
    """

    api: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str = Field(pattern=r"^(/|(/([A-Za-z0-9._~:@-]+|\{[a-z0-9_]+\}))+)$")
    query: Mapping[str, Scalar] = Field(default_factory=dict[str, Scalar])
    body: Mapping[Path_, Scalar] = Field(default_factory=dict[str, Scalar])
    headers: Mapping[HeaderName, Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]+$")]] = Field(
        default_factory=dict[str, str]
    )

    @property
    def placeholders(self) -> tuple[str, ...]:
        return tuple(re.findall(r"\{([a-z0-9_]+)\}", self.path))


class Tool(_Part):
    """One tool. `effect` is what it does to existing data: read, create, update or delete."""

    name: Name
    title: Annotated[str, StringConstraints(min_length=1, max_length=80)]
    description: Text
    scopes: frozenset[str] = Field(min_length=1)
    effect: Effect
    approval: bool = False  # needs the person's approval each time
    presentation: Presentation = DEFAULT  # how a call is shown to the person who approves it
    request: Request
    arguments: Mapping[Name, Argument] = Field(default_factory=dict[str, Argument])
    result: Result

    def __hash__(self) -> int:
        return hash((self.name, self.request.path))  # equal tools have equal hashes; mappings have none

    @model_validator(mode="after")
    def _fits_together(self) -> Tool:
        if (self.request.method == "GET") != (self.effect == "read") and self.request.method != "POST":
            raise ValueError(f"{self.request.method} doesn't match effect = {self.effect!r}")
        if "account" in self.arguments:
            raise ValueError("every tool already has the argument `account`")
        for placeholder in self.request.placeholders:
            argument = self.arguments.get(placeholder)
            is_there = argument is not None and (argument.required or argument.default is not None)
            if argument is None or argument.type not in {"text", "integer"} or not is_there:
                raise ValueError(
                    f"the path's {{{placeholder}}} needs a required argument of that name, text or integer, or default"
                )
        for name, argument in self.arguments.items():
            if argument.place == "path" and name not in self.request.placeholders:
                raise ValueError(f"the path has no place for {name}")
        if not self.result.fields and (self.effect == "read" or self.result.items is not None):
            raise ValueError("a tool that reads returns something: name result.fields")
        if (self.result.next is not None) != ("cursor" in self.arguments):
            raise ValueError("paging needs both result.next and an argument `cursor`")
        if self.result.more is not None and self.result.next is None:
            raise ValueError("result.more says whether result.next is used: name both")
        if "cursor" in self.arguments and self.arguments["cursor"].type != "text":
            raise ValueError("`next_cursor` is a text, so `cursor` must be one")
        known = set(self.result.fields)
        for name in re.findall(r"\{([^{}]*)\}", self.result.line):
            if name not in known:
                raise ValueError(f"result.line names {{{name}}}, which isn't a field")
        return self


class ToolFile(_Part):
    """Tools of one provider. `arguments` are those that several of them name in `use`."""

    provider: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")]
    arguments: Mapping[Name, Argument] = Field(default_factory=dict[str, Argument])
    tool: tuple[Tool, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _add_shared_arguments(cls, content: object) -> object:
        """Add the shared arguments that each tool uses, before its own."""
        if not is_object(content) or not is_object(shared := content.get("arguments", {})):
            return content
        tools = content.get("tool")
        if not is_array(tools):
            return content
        return {**content, "tool": [_with_shared(tool, shared) if is_object(tool) else tool for tool in tools]}


def _with_shared(tool: Mapping[str, object], shared: Mapping[str, object]) -> Mapping[str, object]:
    use, own = tool.get("use", []), tool.get("arguments", {})
    if not is_array(use) or not is_object(own):
        raise ValueError("`use` is a list of names of the file's [arguments], `arguments` a table")
    missing = [name for name in use if not isinstance(name, str) or name not in shared]
    if missing:
        raise ValueError(f"use: the file's [arguments] has no {missing[0]!r}")
    used = {str(name): shared[str(name)] for name in use}
    return {name: value for name, value in tool.items() if name != "use"} | {"arguments": {**used, **own}}


def read_tool_file(path: Path) -> ToolFile:
    """The declarations of one file; built-in files are read once. Raises ToolFileRefused with one line."""
    return _read_shipped(path) if path.parent == BUILT_IN else _read(path)


@functools.cache
def _read_shipped(path: Path) -> ToolFile:
    return _read(path)


def _read(path: Path) -> ToolFile:
    try:
        return ToolFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ToolFileRefused(f"{path}: can't be read: {reason_of(error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise ToolFileRefused(f"{path}: isn't valid TOML: {error}") from error
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in found["loc"])
        raise ToolFileRefused(f"{path}: {where or 'the file'}: {what_is_wrong(ToolFile, found)}") from error


def read_folders(folders: Sequence[Path]) -> tuple[tuple[Path, ToolFile], ...]:
    """Every file of these folders, in the order of folders and names. Raises ToolFileRefused."""
    found: list[tuple[Path, ToolFile]] = []
    for folder in folders:
        if not folder.is_dir():
            raise ToolFileRefused(f"{folder}: no such folder; create it or correct tools.folders")
        found += [(path, read_tool_file(path)) for path in sorted(folder.glob("*.toml"))]
    return tuple(found)
