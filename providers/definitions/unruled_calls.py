"""Calls without a request rule: the part of a provider file about them, and the scopes that represent them.

Off unless the operator sets `providers.NAME.unruled_calls`. The two scopes are the vault's own: a provider never sees
them. They limit a call only to the hosts of the provider's APIs and to the method.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import StringConstraints

from providers.definitions.method_overrides import FilePart

ANY_READ: Final = "any:read"
ANY_CALL: Final = "any:call"  # includes ANY_READ
UNRULED: Final = frozenset({ANY_READ, ANY_CALL})
EVERYTHING: Final = "/{+}"

UnruledCalls = Literal["refuse", "read", "any"]  # values of the setting
PathTemplate = Annotated[str, StringConstraints(pattern=r"^(/([A-Za-z0-9._~:@-]|\{\+?\})+)+$")]


class UnruledLimits(FilePart):
    """What `any:read` and `any:call` must not mean at this provider; path templates as in rules.

    `unsafe_reads`: a GET of these changes something, so only `any:call` allows it. `closed`: never allowed, for example
    because the answer contains a credential. `sources`: where that is documented.
    """

    unsafe_reads: frozenset[PathTemplate] = frozenset()
    closed: frozenset[PathTemplate] = frozenset()
    sources: tuple[str, ...] = ()
