"""Members of a provider's answers that carry a credential, which agents don't see."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Final

from pydantic import Field, StringConstraints

from providers.definitions.method_overrides import FilePart, ScopeName
from providers.definitions.paths import fold, pattern_of, readings

MemberName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_$@.-]+$", max_length=100)]
RULE_PATH: Final = r"^(/|(/([A-Za-z0-9._~:@-]|\{\+?\})+)+)$"  # `/` is the API's address itself


class MaskedMembers(FilePart):
    """Names of `members` whose texts are masked wherever they occur in an answer, with everything below them. `paths`:
    only in the answers of these calls, written as in a rule; without it, of all. `shown_to`: scopes whose holders see
    them. `only_query`: their texts are addresses, of which only the query is masked. `files`: content types of answers
    that are someone's file, which stays as it is.
    """

    members: frozenset[MemberName] = Field(min_length=1)
    paths: tuple[Annotated[str, StringConstraints(pattern=RULE_PATH)], ...] = ()
    shown_to: frozenset[ScopeName] = frozenset()
    only_query: bool = False
    files: frozenset[Annotated[str, StringConstraints(pattern=r"^[a-z]+/[a-z0-9.+-]+$", max_length=100)]] = frozenset()

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(pattern_of(fold(path)) for path in self.paths)

    def is_for(self, path: str, content_type: str) -> bool:
        """Whether an answer of this type to a call of this path is searched, however a server reads the path."""
        if content_type.partition(";")[0].strip().lower() in self.files:
            return False
        if not self.paths:
            return True
        _, folded = readings(path)
        return any(pattern.fullmatch(folded) is not None for pattern in self._patterns)
