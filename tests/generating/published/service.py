"""What the generator of request rules must know about a service and its published OpenAPI document.

`tests.generating.openapi_services` lists the services.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

FILES: Final = Path(__file__).parents[3] / "providers" / "services"
_SHOWS_MORE: Final = re.compile(r"(opt_)?(fields?|expand|expansions|include|embed|additional)([^a-z].*)?|.*[.]fields")
_CLOSED: Final = re.compile(
    r".*(hook|token|secret|api_?key|keys|credential|password|oauth|saml|certificate|impersonat|signing|integration"
    r"|export|login|session|device|subscription_key|ssh).*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Part:
    """What one scope allows of a call: only with values that fit `where`, an absent value being the empty text.

    `inseparable`: scopes with which the call reaches more without showing it. `needs`: scopes that the caller must hold
    in addition. `exact`: with no other parameters than the listed ones.
    """

    scope: str
    where: Mapping[str, str]
    inseparable: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    exact: bool = False


@dataclass(frozen=True)
class Service:
    """Where a service's document is, and how it names the scopes of an operation.

    `security`: the schemes that list them. `said`: the pattern of a description that names them, and `before`: a prefix
    that the names have in the provider file but not in the description. `listed`: the member of an operation that lists
    them. `unscoped`: scopes of which any one allows reads without a scope of their own. `given`: pairs of a pattern of
    `METHOD /path` and scopes, where the first match counts, for operations whose scopes the document doesn't name.
    `alternatives`: any one of several scopes is enough; otherwise all are needed. `tags` or `paths`: the reviewed part.
    With `paths`, operations are left out if the provider file lacks their scopes or if their names suggest credentials;
    the rules say whether answers have such members, except for `public` ones. `telling`: operations whose answers do
    although the document has no such member. `widened`: pairs of a pattern of `METHOD /path` and scopes that make the
    call answer with more, or reach more, than its own scope allows. `renamed`: the provider file's names of scopes with
    another name in the document. `named`, `unnamed`: pairs of a pattern and of parameters that are newer than the
    document, and that reach more than the scope says. `divided`: pairs of a pattern and of parts, for calls that a
    parameter divides among the scopes that the document names. `posts_reads`: reads may use POST, too.
    `searches`: paths that read by POST. `placed`: pairs of a pattern of a document's path and the provider file's paths
    for it. `shows_same`: parameters that show no more despite their names. `left_out`: calls, `METHOD /path`,
    that the scope's title doesn't describe. `closes_rest`: the provider file allows every path, so all operations whose
    answers contain credentials have a rule that closes them, for the scope that `given` names last.
    `public_paths`: as `public`, for all calls of these paths. `opened`: reviewed paths whose names only suggest
    credentials. With `closes_rest`, `shared`: members that who may write may see; `harmless`: that are no credentials
    despite their names. `compared`: the repository of the document that tools are compared with, if rules come from
    another. `exact`: a scope whose calls have only the parameters that the document lists, and the wider scope that may
    add others ("" if none); with `closes_rest`, also for every other path.
    """

    repository: str
    base: str = ""  # prefix of the document's paths that is part of the API's URL in the provider file
    security: str = ""
    said: str = ""
    before: str = ""
    given: tuple[tuple[str, str], ...] = ()
    listed: str = ""
    unscoped: str = ""
    alternatives: bool = False
    tags: frozenset[str] = frozenset()
    closed: str = r"(?!)"  # paths with these tags that are left out
    paths: str = ""
    widens: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()  # scopes that the service no longer grants, or that cover everything
    public: frozenset[str] = frozenset()
    public_paths: str = r"(?!)"
    opened: str = r"(?!)"
    telling: frozenset[str] = frozenset()
    widened: tuple[tuple[str, str], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    named: tuple[tuple[str, str], ...] = ()
    unnamed: tuple[tuple[str, str], ...] = ()
    divided: tuple[tuple[str, tuple[Part, ...]], ...] = ()
    posts_reads: bool = False
    closes_rest: bool = False
    shared: frozenset[str] = frozenset()
    harmless: frozenset[str] = frozenset()
    folder: str = "."  # of the provider file
    api: str = "main"
    file: str = ""  # of the repository
    compared: str = ""
    exact: tuple[str, str] | None = None
    has_contract: bool = True  # its schemas are current, so that tools are compared with them
    has_rules: bool = True  # otherwise rules are written by hand and only compared with the document
    server: str | None = None  # the URL that the document should have, if it has another or none
    partial: frozenset[str] = frozenset()  # writes that accept a body without members that the document requires
    placed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    shows_same: frozenset[str] = frozenset()
    searches: str = r".*/search"
    left_out: str = r"(?!)"
    takes_body: bool = False  # what the document has in the query of a write can be in its body
    unshaped: frozenset[str] = frozenset()  # calls with members of the customer's own, or that the document has wrongly
    name: str = ""

    def file_of(self, kind: Literal["toml", "json"]) -> Path:
        """The provider file, or its generated rules."""
        folder = FILES / self.folder
        return folder / f"{self.name}.toml" if kind == "toml" else folder / "rules" / f"{self.name}.json"

    @cached_property
    def titles(self) -> Mapping[str, Mapping[str, object]]:
        """The scopes of the provider file."""
        return tomllib.loads(self.file_of("toml").read_text(encoding="utf-8"))["scopes"]

    @cached_property
    def known_scopes(self) -> frozenset[str] | None:
        """The names of these scopes; None: all named scopes."""
        return frozenset(self.titles) if self.paths or self.closes_rest else None

    @property
    def widest(self) -> str:
        """The scope that `given` names last."""
        return self.given[-1][1]

    def only_reads(self, scope: str) -> bool:
        """Whether the provider file says that the scope only reads."""
        return bool(self.titles[scope].get("reads"))

    def place_paths(self, template: str) -> list[str]:
        """The paths below the API's URL in the provider file; mostly one."""
        for pattern, places in self.placed:
            if (found := re.fullmatch(pattern, template)) is not None:
                return [found.expand(place) for place in places]
        return [template.removeprefix(self.base)]

    def is_search(self, template: str) -> bool:
        """Whether a POST to the path only reads."""
        return re.fullmatch(self.searches, template) is not None

    def leaves_out(self, call: str) -> bool:
        """Whether no rule allows the call, `METHOD /path`, although its path belongs to the reviewed part."""
        return re.fullmatch(self.left_out, call) is not None

    def has(self, template: str, tags: Collection[str]) -> bool:
        """Whether an operation belongs to the reviewed part."""
        if re.fullmatch(self.closed, template):
            return False
        if self.paths or self.closes_rest:
            is_closed = _CLOSED.fullmatch(template) is not None and re.fullmatch(self.opened, template) is None
            return re.fullmatch(self.paths, template) is not None and not is_closed
        return not self.tags.isdisjoint(tags)

    def is_public(self, call: str) -> bool:
        """Whether members of the answer that are named like credentials are none."""
        path = call.partition(" ")[2]
        return self.known_scopes is None or call in self.public or re.fullmatch(self.public_paths, path) is not None

    def widening_scopes(self, call: str) -> list[str]:
        """The scopes with which this call, `METHOD /path`, shows or reaches more."""
        return sorted(_words_of(self.widened, call))

    def parts(self, call: str) -> tuple[Part, ...]:
        """The parts of a call that a parameter divides among scopes."""
        return next((parts for pattern, parts in self.divided if re.fullmatch(pattern, call)), ())

    def newer_parameters(self, call: str) -> set[str]:
        """Parameters of the call that the document lacks."""
        return _words_of(self.named, call)

    def refused_parameters(self, call: str) -> set[str]:
        """Parameters with which the call reaches more than its scope says."""
        return _words_of(self.unnamed, call)

    def shows_more(self, parameter: str) -> bool:
        """Whether a parameter can show what needs other scopes, mostly related objects."""
        if parameter in self.shows_same:
            return False
        return parameter in self.widens or (bool(self.paths) and _SHOWS_MORE.fullmatch(parameter) is not None)


def _words_of(pairs: tuple[tuple[str, str], ...], call: str) -> set[str]:
    return {word for pattern, words in pairs if re.fullmatch(pattern, call) for word in words.split()}
