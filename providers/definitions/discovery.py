"""Services without a file: OAuth 2.0 by three addresses, OpenID Connect by its issuer (Discovery 1.0).

Nothing more is known about them, so the strictest assumptions apply: a used refresh token ends the grant, tokens can't
be narrowed, and calls need rules from a file. `token-vault providers new` writes a first file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from providers.definitions.issuers import NoMetadata, fetch_metadata, read_server
from providers.definitions.model import Provider
from providers.outbound.json_values import at, is_object, text_at, text_list

if TYPE_CHECKING:
    from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound

IDENTITY: Final = ("openid", "email")
_OFFLINE: Final = "offline_access"
_ALIASED: Final = ("token_endpoint", "revocation_endpoint", "userinfo_endpoint")
_ALL: Final = "account"  # our scope for everything that a service without scopes allows


class DiscoveryFailed(Exception):
    """The issuer doesn't publish its endpoints. One line."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The endpoints of a service. `scopes` are those that it publishes."""

    authorize_url: str
    token_url: str
    userinfo_url: str | None
    revoke_url: str | None = None
    client_auth: str = "client_secret_basic"
    scopes: frozenset[str] = frozenset()
    is_openid: bool = False
    certificate_bound: bool = False  # tokens are bound to the client certificate
    issuer: str | None = None  # the required `iss` of every authorization response, if the service promises one


async def find_endpoints(
    issuer: str, outbound: Outbound, *, policy: AddressPolicy | None = None, has_certificate: bool = False
) -> Endpoints:
    """The endpoints that an issuer publishes, by OpenID Connect Discovery or RFC 8414. Raises DiscoveryFailed.

    `has_certificate`: the endpoints for clients with a certificate (RFC 8705 §5).
    """
    try:
        content = await fetch_metadata(issuer, outbound, policy=policy)
    except NoMetadata as error:
        if error.why == "unreachable":
            raise DiscoveryFailed(f"{issuer} doesn't answer: {error}") from error
        if error.named is not None and error.named.rstrip("/") == issuer.rstrip("/"):
            raise DiscoveryFailed(
                f"{issuer} calls itself {error.named}: write it exactly like that, including any trailing slash"
            ) from error
        raise DiscoveryFailed(
            f"{issuer} publishes no OpenID configuration and no RFC 8414 metadata (status {error.status})"
        ) from error
    return read_configuration(issuer, content, has_certificate=has_certificate)


def read_configuration(issuer: str, content: Mapping[str, object], *, has_certificate: bool = False) -> Endpoints:
    """The endpoints in a discovery document. Raises DiscoveryFailed."""
    aliases = at(content, "mtls_endpoint_aliases") if has_certificate else None
    endpoints = (
        {**content, **{name: aliases[name] for name in _ALIASED if name in aliases}} if is_object(aliases) else content
    )
    try:
        found = read_server(endpoints)
    except NoMetadata as error:
        raise DiscoveryFailed(f"{issuer} has {error}") from error
    scopes = frozenset(text_list(content, "scopes_supported"))
    use_post = "client_secret_post" in found.auth_methods and "client_secret_basic" not in found.auth_methods
    return Endpoints(
        authorize_url=found.authorize_url,
        token_url=found.token_url,
        userinfo_url=text_at(endpoints, "userinfo_endpoint"),
        revoke_url=text_at(endpoints, "revocation_endpoint"),
        client_auth="client_secret_post" if use_post else "client_secret_basic",
        scopes=scopes,
        certificate_bound=has_certificate and at(content, "tls_client_certificate_bound_access_tokens") is True,
        # required of an OpenID configuration (Discovery §3), unknown to RFC 8414
        is_openid=at(content, "id_token_signing_alg_values_supported") is not None or IDENTITY[0] in scopes,
        issuer=found.answers_as,
    )


def content_of(
    name: str, endpoints: Endpoints, *, title: str | None = None, scopes: Iterable[str] = (), is_openid: bool
) -> dict[str, object]:
    """The content of a provider file for these endpoints.

    Only OpenID Connect defines scopes; a plain OAuth 2.0 service refuses unknown ones (`invalid_scope`), so only the
    scopes in settings are requested, or none.
    """
    wanted = sorted(set(scopes) or {"profile" if is_openid else _ALL})
    known = endpoints.scopes
    identity = [scope for scope in IDENTITY if is_openid and (scope == "openid" or not known or scope in known)]
    offline = [_OFFLINE] if _OFFLINE in endpoints.scopes else []
    hosts = {"authorize_url": endpoints.authorize_url, "token_url": endpoints.token_url}
    if endpoints.revoke_url is not None:
        hosts["revoke_url"] = endpoints.revoke_url
    if endpoints.issuer is not None:
        hosts["issuer"] = endpoints.issuer
    asked: dict[str, object] = {"default": [scope for scope in wanted if scope not in (*identity, *offline)] or wanted}
    if wanted == [_ALL]:
        asked["app_level"] = True
    identity_of: dict[str, object] = {"source": "none"}  # RFC 8414 has no such endpoint: each consent is an account
    if endpoints.userinfo_url is not None:
        identity_of = {
            "url": endpoints.userinfo_url,
            "id": "{sub}" if is_openid else "{id}",
            "label": "{email}",
        }
    return {
        "name": name,
        "title": title or name,
        "client_auth": endpoints.client_auth,
        **({"certificate_bound": True} if endpoints.certificate_bound else {}),
        "hosts": hosts,
        "scope": {**asked, **({"identity": identity} if identity else {}), **({"offline": offline} if offline else {})},
        "identity": identity_of,
        "scopes": {scope: {"title": scope} for scope in wanted},
    }


def generic_provider(
    name: str, endpoints: Endpoints, *, title: str | None, scopes: Iterable[str], apis: Mapping[str, str]
) -> Provider:
    """A provider that only settings describe: an issuer, or addresses, with `openid` among the scopes for an OpenID
    provider. Its account is the `sub` of the userinfo endpoint, or the `id` of a plain OAuth 2.0 service.
    """
    asked = frozenset(scopes)
    is_openid = endpoints.is_openid or IDENTITY[0] in asked
    content = content_of(name, endpoints, title=title, scopes=asked, is_openid=is_openid)
    if not is_openid and endpoints.userinfo_url is not None:
        content["identity"] = {"url": endpoints.userinfo_url, "id": "{sub|id|user_id}", "label": "{email|name|login}"}
    return Provider.model_validate({**content, "apis": dict(apis)})
