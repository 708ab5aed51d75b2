"""The part of a provider file about companies: how people's accounts connect by an assertion of their identity
provider.

`providers.oauth.assertions` gets and redeems such assertions.
"""

from __future__ import annotations

from pydantic import Field

from providers.definitions.method_overrides import FilePart, ScopeName


class IdJag(FilePart):
    """The provider's authorization server accepts Identity Assertion JWT Authorization Grants (ID-JAG). `audience`:
    that server's issuer. `resource`: the API that the token is for. `scopes`: what a company's connection requests; the
    default is `scope.default`. draft-ietf-oauth-identity-assertion-authz-grant-04 §4.3.
    """

    audience: str = Field(pattern=r"^[\x21-\x7e]+$", max_length=500)
    resource: str | None = Field(default=None, pattern=r"^[\x21-\x7e]+$", max_length=500)
    scopes: frozenset[ScopeName] = frozenset()


class Enterprise(FilePart):
    """How people of a company connect without a page."""

    id_jag: IdJag | None = None
