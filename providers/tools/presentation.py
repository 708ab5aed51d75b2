"""How a tool call is shown to the person who is asked about it, declared with the tool: a sentence, which arguments are
texts or people, what their IDs mean at the provider, and what a change replaces. The server's pages show it. A tool
without a presentation is shown by its title, with texts and addresses recognized.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from providers.api.rules import expand, of_path
from providers.api.text import as_data
from providers.definitions.model import Provider
from providers.outbound.json_values import at, is_array

AnswerPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_@$-]+(\.[A-Za-z0-9_@$-]+)*$", max_length=120)]
_PLACE: Final = re.compile(r"\{([a-z0-9_]+)\}")
_TOLD: Final = frozenset({"agent", "account", "count"})
_PEOPLE: Final = frozenset({"to", "cc", "bcc", "attendees", "recipients"})
_TEXTS: Final = frozenset({"text", "body", "message", "description", "content"})
_LONG: Final = 120  # minimum number of characters of a value that is shown as a text
_NAME: Final = 120  # characters of a name
_VALUE: Final = 8000
_ANSWERED: Final = re.compile(r"\{([A-Za-z0-9_@$.-]+)\}")
_ADDRESS: Final = re.compile(r"[^@\s<>]+@([^@\s<>]+)")


class _DeclaredPresentation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lookup(_DeclaredPresentation):
    """One read at the provider that resolves what arguments mean; `{argument}` in `path` and `query` stands for a
    value. `graphql` is a query that is posted instead, with `variables`, in which `{argument}` also stands for a value.
    `names` has the name of what an argument identifies, a text with `{path}` for values of the answer; `before` has the
    paths of the value that an argument replaces, of which the first existing one counts. `only`: a pattern that the
    whole argument must match; otherwise nothing is read. `scopes` are the minimum that it needs, and only read.
    """

    api: str
    path: str = Field(pattern=r"^(/([A-Za-z0-9._~:@-]+|\{[a-z0-9_]+\}))+$")
    query: Mapping[str, str] = Field(default_factory=dict[str, str])
    graphql: str = Field(default="", max_length=1000)
    variables: Mapping[str, str] = Field(default_factory=dict[str, str])
    scopes: frozenset[str] = Field(min_length=1)
    only: Mapping[str, str] = Field(default_factory=dict[str, str])
    names: Mapping[str, str] = Field(default_factory=dict[str, str])
    before: Mapping[str, tuple[AnswerPath, ...]] = Field(default_factory=dict[str, tuple[AnswerPath, ...]])

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments that it needs: those in the path first, in their order."""
        templates = (self.path, *self.query.values(), *self.variables.values())
        return tuple(dict.fromkeys(name for one in templates for name in _PLACE.findall(one)))

    @property
    def method(self) -> Literal["GET", "POST"]:
        """The method of the request."""
        return "POST" if self.graphql else "GET"

    @property
    def template(self) -> str:
        """The path with `{}` for each of `segments`."""
        return _PLACE.sub("{}", self.path)

    def segments(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """The values in the path, in its order."""
        return tuple(values[name] for name in _PLACE.findall(self.path))

    def parameters(self, values: Mapping[str, str]) -> Mapping[str, str]:
        """The query with its values."""
        return _fill(self.query, values)

    def body(self, values: Mapping[str, str]) -> Mapping[str, object]:
        """The body to post: the GraphQL query with its values."""
        return {"query": self.graphql, "variables": _fill(self.variables, values)}

    def read_names(self, answer: Mapping[str, object]) -> Mapping[str, str]:
        """The names in an answer, cleaned, because they are text by the provider or by people there."""
        found: dict[str, str] = {}
        for argument, template in self.names.items():
            values = {path: _plain(at(answer, path)) for path in _ANSWERED.findall(template)}
            if all(values.values()):
                name = _ANSWERED.sub(lambda place, values=values: values[place[1]], template)
                found[argument] = as_data(" ".join(name.split()), limit=_NAME)
        return found

    def read_before(self, answer: Mapping[str, object]) -> Mapping[str, str]:
        """The current values of what arguments would change; absent ones are empty."""
        return {
            argument: as_data(next(filter(None, (_plain(at(answer, path)) for path in paths)), ""), limit=_VALUE)
            for argument, paths in self.before.items()
        }

    def values_of(self, arguments: Mapping[str, object]) -> Mapping[str, str] | None:
        """The values for the request; None when one is missing or has another form."""
        found: dict[str, str] = {}
        for name in self.arguments:
            value = arguments.get(name)
            if not isinstance(value, str | int) or isinstance(value, bool) or not str(value):
                return None
            found[name] = str(value)
        for name, pattern in self.only.items():
            if re.fullmatch(pattern, str(arguments.get(name, ""))) is None:
                return None
        return found


class Presentation(_DeclaredPresentation):
    """How a tool presents its arguments.

    `sentence` completes "Cursor wants to ..." with `{argument}` for values; empty: the tool's title. `texts` are shown
    as they will look, `people` one by one. A standing approval binds the arguments in `target` unchanged and, for those
    in `target_domains`, the domains of their addresses; with neither, the tool has no standing approvals. `done`
    describes in the activity what a call did, with `{agent}`, `{account}`, and `{count}` for the number of results and
    a space, or nothing: "{agent} listed {count}issues as {account}". `done_one` is for a single result.
    """

    sentence: Annotated[str, StringConstraints(max_length=200)] = ""
    done: Annotated[str, StringConstraints(max_length=200)] = ""
    done_one: Annotated[str, StringConstraints(max_length=200)] = ""
    texts: tuple[str, ...] = ()
    people: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    target_domains: tuple[str, ...] = ()
    lookups: tuple[Lookup, ...] = ()

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if not set(self.target_domains) <= set(self.people):
            raise ValueError("target_domains are arguments of `people`")
        for told in (self.done, self.done_one):
            if not set(_PLACE.findall(told)) <= _TOLD or set("{}") & set(_PLACE.sub("", told)):
                raise ValueError(f"done takes {', '.join(f'{{{name}}}' for name in sorted(_TOLD))}, no others")
        return self

    @property
    def named_arguments(self) -> frozenset[str]:
        """Every argument that it mentions."""
        named = {*_PLACE.findall(self.sentence), *self.texts, *self.people, *self.target}
        for one in self.lookups:
            named |= {*one.arguments, *one.only, *one.names, *one.before}
        return frozenset(named)

    def words_for(self, items: object) -> str:
        """What a call with this many results did; empty if the tool doesn't declare it."""
        return self.done_one if items == 1 and self.done_one else self.done

    def target_of(self, arguments: Mapping[str, object]) -> Mapping[str, object] | None:
        """What a standing approval for this call binds; None if none is possible.

        The domains are those of all recipients together, so a call to one more domain has another target.
        """
        if not (self.target or self.target_domains):
            return None
        domains: set[str] = set()
        for name in self.target_domains:
            for address in addresses(arguments.get(name)):
                found = _ADDRESS.fullmatch(address)
                if found is None:
                    return None
                domains.add(found[1].lower())
        if self.target_domains and not self.target and not domains:
            return None
        bound: dict[str, object] = {name: arguments.get(name) for name in self.target}
        return bound | ({"domains": sorted(domains)} if self.target_domains else {})

    def parts(self) -> tuple[tuple[str, str], ...]:
        """The sentence in pieces: pairs of a text, and the argument that follows it (empty after the last)."""
        pieces = _PLACE.split(self.sentence)
        return tuple(zip(pieces[::2], [*pieces[1::2], ""], strict=True))

    def is_text(self, name: str, value: object) -> bool:
        """Whether an argument is shown as text."""
        if self.texts or not isinstance(value, str):
            return name in self.texts
        return name in _TEXTS or len(value) > _LONG or "\n" in value

    def is_people(self, name: str, value: object) -> bool:
        """Whether an argument is a list of recipients."""
        return name in (self.people or _PEOPLE) and bool(addresses(value))

    def recipients_of(self, arguments: Mapping[str, object]) -> frozenset[str]:
        """All recipients of a call with these arguments."""
        found: set[str] = set()
        for name in self.people or _PEOPLE:
            if name in arguments:
                found.update(addresses(arguments[name]))
        return frozenset(found)


DEFAULT: Final = Presentation()


def _fill(templates: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    return {name: _PLACE.sub(lambda place: values[place[1]], template) for name, template in templates.items()}


def _plain(value: object) -> str:
    """A text or number of an answer; empty for anything else."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def addresses(value: object) -> tuple[str, ...]:
    """The recipients in an argument: one, or a list."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(str(one) for one in value) if is_array(value) else ()


def problem(presentation: Presentation, provider: Provider, arguments: Iterable[str]) -> str | None:
    """What is wrong with the presentation for a tool of this provider with these arguments; None if nothing is."""
    strange = sorted(presentation.named_arguments - set(arguments))
    if strange:
        return f"presentation names {', '.join(strange)}, which the tool doesn't take"
    for one in presentation.lookups:
        if one.api not in provider.apis:
            return f"presentation: {provider.name} has no API {one.api!r}: {', '.join(provider.apis)}"
        if not one.scopes <= provider.reading_scopes:
            writing = ", ".join(sorted(one.scopes - provider.reading_scopes))
            return f"presentation: {writing} isn't a scope of {provider.name} that only reads"
        path = _PLACE.sub("x", one.path)
        held = expand(provider, one.scopes)
        rules = of_path(provider, api=one.api, method=one.method, path=path)
        if all(rule.scopes.isdisjoint(held) or not rule.needs <= held or rule.tells_secrets for rule in rules):
            return (
                f"presentation: no request rule of {provider.name} lets {', '.join(sorted(one.scopes))} "
                f"call {one.method} {one.path}"
            )
    return None
