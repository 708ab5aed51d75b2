"""Parameters and headers that turn a call into one of another method, so that it is refused; everywhere or at one
provider.

`providers.definitions.model` has the rest of a provider file; `providers.api.rules` refuses the calls.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cached_property, lru_cache
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, StringConstraints

Key = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
ScopeName = Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$", max_length=200)]  # RFC 6749 §3.3
QueryName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_$@][A-Za-z0-9_.$\[\]-]*$", max_length=80)]
# `files.example`, `files.example:8443`, or `*.files.example` for all names below it, but never for a top-level domain.
HostPattern = Annotated[
    str, StringConstraints(pattern=r"^(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)+(:[0-9]{1,5})?$", max_length=200)
]


# Many API frameworks take the method from one of these parameters or headers, so they are refused everywhere.
# Parameters are written as `fold_name` returns them, headers in lowercase. The CORS preflight header is excluded,
# because no call has it.
METHOD_PARAMETER: Final = re.compile(
    r"(?:[_$]|x_)+(?:http_?)?(?:method|verb)|http_?(?:method|verb)|.*(?:method|verb)_?override.*"
)
TARGET: Final = "x-amz-target"  # names the operation in AWS's JSON protocols
METHOD_HEADER: Final = re.compile(
    r"(?!access-control-request-method$)(?:.*[-_])?(?:method|verb)(?:[-_].*)?|.*override.*"
)


class FilePart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Overrides(FilePart):
    """What turns a call into one of another method at this provider, so that it is refused; empty if nothing does.
    `parameters` of query or body, and `headers` in lowercase, in addition to those that are refused everywhere.
    `sources`: where that is documented.
    """

    parameters: frozenset[QueryName] = frozenset()
    headers: frozenset[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]] = frozenset()
    sources: tuple[Key, ...] = ()

    @cached_property
    def folded_parameters(self) -> frozenset[str]:
        """The parameters as `fold_name` returns them."""
        return frozenset(fold_name(name) for name in self.parameters)


@lru_cache(maxsize=1024)
def fold_name(name: str) -> str:
    """A parameter's name as the most lenient framework reads it: PHP also reads `_method[x]` and ` .method` as
    names."""
    plain = unicodedata.normalize("NFKC", name).partition("[")[0].strip().lower()
    return re.sub(r"[ .-]", "_", plain)


@lru_cache(maxsize=1024)
def is_method_parameter(name: str) -> bool:
    """Whether the parameter is refused everywhere, because some framework takes the method from it."""
    return METHOD_PARAMETER.fullmatch(fold_name(name)) is not None
