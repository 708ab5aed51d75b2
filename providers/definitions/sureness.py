"""The sources of the facts in a provider file, when they were read, and how sure the facts are."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Annotated, Final, Literal

from pydantic import StringConstraints

from providers.definitions.method_overrides import FilePart, Key

Level = Literal["checked", "cited", "unsure", "unknown"]
LEVELS: Final[tuple[Level, ...]] = ("checked", "cited", "unsure")
_ENOUGH: Final = 2


class Source(FilePart):
    """The source of a fact: the address or name of a document, and when it was read or cited."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=120, strip_whitespace=True)]
    date: dt.date


class Fact(FilePart):
    """How sure we are of a fact.

    `checked`: read on the provider's own pages or in its library. `cited`: the named sources are reported to state it.
    `unsure`: they differ, or only one states it. `unknown`: there is no source, and the strictest reading applies.
    """

    status: Level
    sources: tuple[Key, ...] = ()

    @property
    def level(self) -> Level:
        """The status; a fact with only one source is unsure even if the file calls it cited."""
        return "unsure" if self.status == "cited" and len(set(self.sources)) < _ENOUGH else self.status


def tally(facts: Collection[Fact], *, expected: int) -> Mapping[str, int]:
    """The number of expected facts at each level; a fact that is missing from the file is unknown."""
    levels = [fact.level for fact in facts]
    found = {level: levels.count(level) for level in LEVELS}
    return {**found, "unknown": expected - sum(found.values())}


def read_on(sources: Mapping[str, Source]) -> dt.date | None:
    """When the newest of the sources was read."""
    return max((source.date for source in sources.values()), default=None)
