"""Members of a provider's answers that carry a credential, which agents don't see."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Final

from pydantic import Field, StringConstraints, model_validator

from providers.definitions.method_overrides import FilePart, ScopeName
from providers.definitions.paths import fold, pattern_of, readings

MemberName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_$@.-]+$", max_length=100)]
RULE_PATH: Final = r"^(/|(/([A-Za-z0-9._~:@-]|\{\+?\})+)+)$"  # `/` is the API's address itself


class MaskedMembers(FilePart):
    """Names of `members` whose texts are masked wherever they occur in an answer, with everything below them. `paths`:
    only in the answers of these calls, written as in a rule; without it, of all. `shown_to`: scopes whose holders see
    them. `only_query`: their texts are addresses, of which only the query is masked. `files`: content types in which
    these calls answer with someone's file, which stays as it is unless it is a list of objects, like a folder's.
    """

    members: frozenset[MemberName] = Field(min_length=1)
    paths: tuple[Annotated[str, StringConstraints(pattern=RULE_PATH)], ...] = ()
    shown_to: frozenset[ScopeName] = frozenset()
    only_query: bool = False
    files: frozenset[Annotated[str, StringConstraints(pattern=r"^[a-z]+/[a-z0-9.+-]+$", max_length=100)]] = frozenset()

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(pattern_of(fold(path)) for path in self.paths)

    @model_validator(mode="after")
    def _check_files(self) -> MaskedMembers:
        if self.files and not self.paths:
            raise ValueError("`files` needs `paths`: the calls that answer with a file")
        return self

    def is_for(self, path: str) -> bool:
        """Whether an answer to a call of this path is searched, however a server reads the path."""
        if not self.paths:
            return True
        _, folded = readings(path)
        return any(pattern.fullmatch(folded) is not None for pattern in self._patterns)

    def may_be_file(self, path: str, content_type: str) -> bool:
        """Whether an answer of this type to a call of this path may be someone's file."""
        return content_type.partition(";")[0].strip().lower() in self.files and self.is_for(path)
