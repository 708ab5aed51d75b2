"""Parts of a provider file that say what is asked of the operator, what differs on the wire, and who says so.

The whole file is `providers.provider`. Whether the parts make sense together is checked in `providers.catalog`.
"""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=40)]
Title = Annotated[str, StringConstraints(min_length=1, max_length=120, strip_whitespace=True)]
ScopeName = Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$", max_length=200)]  # RFC 6749 §3.3
Key = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
QueryName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_$][A-Za-z0-9_.$\[\]-]*$", max_length=80)]
FactName = Literal[
    "endpoints",
    "client_auth",
    "pkce",
    "scopes",
    "lifetimes",
    "rotation",
    "narrowing",
    "revocation",
    "identity",
    "console",
]


METHOD_HEADERS: Final = frozenset({"x-http-method-override", "x-http-method", "x-method-override"})  # everywhere


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(Part):
    """What only the operator knows and addresses need: `{subdomain}` in a URL stands for the input of that name.

    The whole value must match `pattern`, and it never reaches beyond one part of a host name or path.
    """

    title: Title
    pattern: str = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    example: str
    default: str | None = None


class Renames(Part):
    """OAuth's parameter -> what this provider calls it; the empty text leaves the parameter out."""

    authorize: Mapping[str, str] = Field(default_factory=dict[str, str])
    token: Mapping[str, str] = Field(default_factory=dict[str, str])  # of the code's request and of a refresh


class LongLived(Part):
    """A second step after the code: the short-lived token is changed for a long one (Meta's services).

    A GET with `grant_type`, our client id and secret, and the token under `token_param`.
    """

    url: str
    grant_type: str
    token_param: str


class Console(Part):
    """Where an operator makes the app. `{redirect_uri}` and `{scopes}` in a step are filled in."""

    url: str
    steps: tuple[Title, ...] = ()


class Source(Part):
    """What says so: an address or the name of a document, and when it was read or named."""

    name: Title
    date: dt.date


class Fact(Part):
    """How sure we are. `checked`: read on the provider's own pages or in its library; `cited`: the named source is
    said to say so, not read again;
    `unknown`: nobody does, and the strictest reading is taken.
    """

    status: Literal["checked", "cited", "unknown"]
    sources: tuple[Key, ...] = ()


class Overrides(Part):
    """What turns a call into one of another method at this provider, so that it is refused; empty where somebody looked
    and found nothing.

    `parameters` of query or body, `headers` in lower case, both beyond the ones that are refused everywhere. `sources`:
    who says so.
    """

    parameters: frozenset[QueryName] = frozenset()
    headers: frozenset[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]] = frozenset()
    sources: tuple[Key, ...] = ()

    @cached_property
    def folded(self) -> frozenset[str]:
        """The parameters as `fold_name` writes them."""
        return frozenset(fold_name(name) for name in self.parameters)


@lru_cache(maxsize=1024)
def fold_name(name: str) -> str:
    """A parameter's name as the least exact framework reads it: PHP takes `_method[x]` and ` .method` for names too."""
    plain = unicodedata.normalize("NFKC", name).partition("[")[0].strip().lower()
    return re.sub(r"[ .-]", "_", plain)


class Proxied(Part):
    """What clients that call the API through the vault may send beyond what every API knows, and what must not pass."""

    headers: frozenset[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]] = frozenset()  # pass on, too
    credentials: frozenset[Annotated[str, StringConstraints(to_lower=True)]] = frozenset()  # parameters that bring one
    links: bool = False  # its clients follow absolute addresses in answers: those of the API become the vault's
