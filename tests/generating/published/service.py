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
    in addition. `exact`: with no other parameters than the listed ones. `json_fields`: parameters whose text is JSON.
    """

    scope: str
    where: Mapping[str, str]
    inseparable: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    exact: bool = False
    json_fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Service:
    """Where a service's document is, how it names the scopes of an operation, and what of it was reviewed.

    A call is `METHOD /path`. The first of several pairs whose pattern matches a call, or a path, counts.
    """

    # The document and the provider file
    repository: str
    file: str = ""  # of the repository
    compared: str = ""  # the repository of the document that tools are compared with, if rules come from another
    server: str | None = None  # the URL that the document should have, if it has another or none
    base: str = ""  # prefix of the document's paths that is part of the API's URL in the provider file
    placed: tuple[tuple[str, tuple[str, ...]], ...] = ()  # patterns of its paths, and the paths that we have for them
    folder: str = "."  # of the provider file
    name: str = ""  # of the provider file
    api: str = "main"
    has_rules: bool = True  # otherwise rules are written by hand and only compared with the document
    has_contract: bool = True  # its schemas are current, so that tools are compared with them
    partial: frozenset[str] = frozenset()  # writes that accept a body without members that the document requires
    unshaped: frozenset[str] = frozenset()  # calls with members of the customer's own, or that the document has wrongly

    # Scopes
    security: str = ""  # the schemes that list them
    listed: str = ""  # the member of an operation that lists them
    said: str = ""  # the pattern of a description that names them
    before: str = ""  # a prefix that their names have in the provider file but not in the description
    renamed: tuple[tuple[str, str], ...] = ()  # the provider file's names of scopes with another name in the document
    given: tuple[tuple[str, str], ...] = ()  # patterns of calls whose scopes the document doesn't name, and the scopes
    unscoped: str = ""  # scopes of which any one allows reads without a scope of their own
    alternatives: bool = False  # any one of several scopes is enough; otherwise all are needed
    ignored: frozenset[str] = frozenset()  # scopes that the service no longer grants, or that cover everything
    widened: tuple[tuple[str, str], ...] = ()  # patterns of calls, and scopes with which they show or reach more
    divided: tuple[tuple[str, tuple[Part, ...]], ...] = ()  # patterns of calls that a parameter divides among scopes
    posts_reads: bool = False  # reads may use POST, too
    searches: str = r".*/search"  # paths that read by POST

    # The reviewed part: `tags` or `paths`. With `paths`, operations are left out if the provider file lacks their
    # scopes, or if their names suggest credentials.
    tags: frozenset[str] = frozenset()
    paths: str = ""
    closed: str = r"(?!)"  # paths that are left out
    opened: str = r"(?!)"  # reviewed paths whose names only suggest credentials
    left_out: str = r"(?!)"  # calls that the scope's title doesn't describe
    # The provider file allows every path, so all operations whose answers contain credentials have a rule that closes
    # them, for the scope that `given` names last.
    closes_rest: bool = False

    # Answers with credentials
    public: frozenset[str] = frozenset()  # calls whose answers have members that are only named like credentials
    public_paths: str = r"(?!)"  # the same for all calls of these paths
    telling: frozenset[str] = frozenset()  # calls whose answers have credentials although the document names none
    shared: frozenset[str] = frozenset()  # members that who may write may see, with `closes_rest`
    harmless: frozenset[str] = frozenset()  # members that are no credentials despite their names, with `closes_rest`

    # Parameters
    widens: frozenset[str] = frozenset()  # they show what needs other scopes
    shows_same: frozenset[str] = frozenset()  # they show no more despite their names
    newer: tuple[tuple[str, str], ...] = ()  # patterns of calls, and parameters that the document lacks
    omitted: tuple[tuple[str, str], ...] = ()  # patterns of calls, and parameters that reach more than the scope says
    omitted_inside: frozenset[str] = frozenset()  # the same for members of any depth of a body
    exact_calls: str = r"(?!)"  # calls that may have no other parameters than the listed ones
    takes_body: bool = False  # what the document has in the query of a write can be in its body
    # A scope whose calls have only the parameters that the document lists, and the wider scope that may add others, or
    # ""; with `closes_rest`, also for every other path.
    exact: tuple[str, str] | None = None

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
        return _words_of(self.newer, call)

    def refused_parameters(self, call: str) -> set[str]:
        """Parameters with which the call reaches more than its scope says."""
        return _words_of(self.omitted, call)

    def shows_more(self, parameter: str) -> bool:
        """Whether a parameter can show what needs other scopes, mostly related objects."""
        if parameter in self.shows_same:
            return False
        return parameter in self.widens or (bool(self.paths) and _SHOWS_MORE.fullmatch(parameter) is not None)


def _words_of(pairs: tuple[tuple[str, str], ...], call: str) -> set[str]:
    return {word for pattern, words in pairs if re.fullmatch(pattern, call) for word in words.split()}
