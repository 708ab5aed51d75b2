"""A client's metadata about itself (RFC 7591 §2), parsed strictly and reduced to what the vault accepts. Pure.

Shared by registration requests and client ID metadata documents. Nothing named here is fetched at this point.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from providers.outbound.json_values import is_array, is_object
from server.oauth.redirect_uris import check_redirect_uri, is_loopback_redirect, without_loopback_port
from server.oauth.rules import TOKEN_EXCHANGE, OAuthError, clean_name, known_scopes
from server.settings import Settings
from server.signatures.jose import FOREIGN_ALGORITHMS
from server.signatures.key_sets import has_private_part, usable_keys
from vault.records import Client, ClientKind, format_scope, parse_scope

AUTH_METHODS: Final = ("none", "client_secret_basic", "client_secret_post", "private_key_jwt")
DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"  # RFC 8628 §3.4
BACKCHANNEL_GRANT: Final = "urn:openid:params:grant-type:ciba"  # OpenID CIBA Core 1.0 §4; only by an operator's act
GRANT_TYPES: Final = ("authorization_code", "refresh_token", DEVICE_GRANT, TOKEN_EXCHANGE)
# The default grant types. The device grant must be requested, because it is the easiest to abuse against a person.
USUAL_GRANT_TYPES: Final = ("authorization_code", "refresh_token")
# Stored in `Client.metadata` with the client's own values; never shown to the client.
CHANGED_AT: Final = "redirects_changed_at"  # when redirects or the shown data changed; named as 0.1.0 reads it
PRIVATE_MEMBERS: Final = frozenset(
    {CHANGED_AT, "fetched_at", "fresh_until", "origins", "release", "worker", "declared"}
)
REDIRECTS_LIMIT: Final = 8192  # characters of all redirect URIs together
_KEPT: Final = 32 * 1024  # characters stored per client
_SHOWN: Final = 200
_SHOWN_URIS: Final = 5
_HOSTS = re.compile(r"http://(?:localhost|127\.0\.0\.1|\[::1\])(?=/|$)")
UNNAMED: Final = "Unnamed agent"
_LINK = re.compile(r"https?://[\x21-\x7e]+")

Text = Annotated[str, Field(max_length=2048)]


def _absent_when_empty(value: object) -> object:
    return None if value == "" or value == [] else value


OptionalText = Annotated[Text | None, BeforeValidator(_absent_when_empty)]
OptionalTexts = Annotated[
    tuple[Text, ...] | None, Field(max_length=30), BeforeValidator(_absent_when_empty)
]  # real clients send null and empty for "absent"


class ClientMetadata(BaseModel):
    """The members that we read. Drops unknown ones: `client_id`, `client_secret`, `trusted`, ... have no effect."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=False)

    redirect_uris: tuple[Text, ...] = Field(min_length=1, max_length=30)
    client_name: OptionalText = None
    token_endpoint_auth_method: OptionalText = None
    grant_types: OptionalTexts = None
    response_types: OptionalTexts = None
    scope: OptionalText = None
    client_uri: OptionalText = None
    logo_uri: OptionalText = None
    tos_uri: OptionalText = None
    policy_uri: OptionalText = None
    contacts: OptionalTexts = None
    jwks: dict[str, object] | None = None
    jwks_uri: OptionalText = None
    software_id: OptionalText = None
    software_version: OptionalText = None
    application_type: OptionalText = None
    dpop_bound_access_tokens: bool | None = None
    require_pushed_authorization_requests: bool | None = None


@dataclass(frozen=True, slots=True)
class AcceptedMetadata:
    """The accepted part of a client's metadata."""

    name: str
    auth_method: str
    redirect_uris: tuple[str, ...]
    grant_types: frozenset[str]
    rest: Mapping[str, object]  # for Client.metadata


def accept(content: Mapping[str, object], *, settings: Settings, default_auth_method: str) -> AcceptedMetadata:
    """Check metadata against the standard and the operator's policy. Raises OAuthError with RFC 7591 §3.2.2 codes."""
    try:
        metadata = ClientMetadata.model_validate(content)
    except ValidationError as error:
        first = next(iter(error.errors()))
        member = str(next(iter(first["loc"])))
        code = "invalid_redirect_uri" if member == "redirect_uris" else "invalid_client_metadata"
        raise OAuthError(code, f"{member} is missing or has the wrong form") from None
    if metadata.jwks == {"keys": []} and metadata.jwks_uri is None:  # how some libraries say that they have no key
        metadata = metadata.model_copy(update={"jwks": None})
    auth_method = metadata.token_endpoint_auth_method or default_auth_method
    _check_redirects(metadata.redirect_uris, settings)
    _check_keys(metadata, settings, signs=auth_method == "private_key_jwt")
    if metadata.jwks is not None and not public_keys(metadata.jwks):
        metadata = metadata.model_copy(update={"jwks": None})  # only for encryption to the client
    if auth_method not in AUTH_METHODS:
        raise OAuthError("invalid_client_metadata", "token_endpoint_auth_method isn't supported")
    if auth_method == "private_key_jwt" and metadata.jwks is None and metadata.jwks_uri is None:
        raise OAuthError("invalid_client_metadata", "private_key_jwt needs jwks or jwks_uri")
    if metadata.response_types is not None and "code" not in metadata.response_types:
        raise OAuthError("invalid_client_metadata", "the only supported response type is code")
    rest = _rest(metadata)
    if sum(map(len, metadata.redirect_uris)) + len(json.dumps(rest)) > _KEPT:
        raise OAuthError("invalid_client_metadata", f"the metadata is longer than {_KEPT} characters")
    return AcceptedMetadata(
        name=clean_name(metadata.client_name or "") or UNNAMED,
        auth_method=auth_method,
        redirect_uris=tuple(dict.fromkeys(metadata.redirect_uris)),
        grant_types=_grant_types(metadata),
        rest=rest,
    )


def _check_redirects(uris: tuple[str, ...], settings: Settings) -> None:
    if sum(map(len, uris)) > REDIRECTS_LIMIT:
        raise OAuthError("invalid_redirect_uri", f"redirect_uris are longer than {REDIRECTS_LIMIT} characters in total")
    for uri in uris:
        check_redirect_uri(uri, private_use_schemes=settings.registration.private_use_schemes)
        if settings.registration_mode == "allow_list" and uri.startswith("https:") and not _host_allowed(uri, settings):
            raise OAuthError(
                "invalid_redirect_uri",
                "this redirect host isn't allowed: ask an admin to add it to registration.allowed_hosts",
            )


def _host_allowed(uri: str, settings: Settings) -> bool:
    host = urlsplit(uri).hostname
    return host in {allowed.lower() for allowed in settings.registration.allowed_hosts}


def document_host_allowed(url: str, settings: Settings) -> bool:
    """Whether policy lets clients of this host introduce themselves by a metadata document."""
    match settings.registration_mode:
        case "open":
            return True
        case "allow_list":
            return _host_allowed(url, settings)
        case "closed":
            return False


def key_host_allowed(url: str, settings: Settings) -> bool:
    """Whether policy lets clients without an operator's approval keep their keys at this address."""
    return settings.registration_mode == "open" or _host_allowed(url, settings)


def _grant_types(metadata: ClientMetadata) -> frozenset[str]:
    """The known ones among the requested grant types; others are silently not granted (clients list all they know)."""
    asked = frozenset(metadata.grant_types or USUAL_GRANT_TYPES) & frozenset(GRANT_TYPES)
    if "authorization_code" not in asked:
        raise OAuthError("invalid_client_metadata", "grant_types must include authorization_code")
    return asked


def _check_keys(metadata: ClientMetadata, settings: Settings, *, signs: bool) -> None:
    if metadata.jwks is not None and metadata.jwks_uri is not None:
        raise OAuthError("invalid_client_metadata", "send jwks or jwks_uri, not both")
    if (
        metadata.jwks is not None
        and not public_keys(metadata.jwks)
        and (signs or not _is_only_for_encryption(metadata.jwks))
    ):
        raise OAuthError("invalid_client_metadata", "jwks contains no usable public key")
    jwks_uri, in_sandbox = metadata.jwks_uri or "https://", settings.sandbox.loopback_client_metadata
    if not jwks_uri.startswith("https://") and not (in_sandbox and is_loopback_redirect(jwks_uri)):
        raise OAuthError("invalid_client_metadata", "jwks_uri must be https")
    if metadata.jwks_uri is not None and not key_host_allowed(metadata.jwks_uri, settings):
        raise OAuthError(
            "invalid_client_metadata",
            "this jwks_uri host isn't allowed: ask an admin to add it to registration.allowed_hosts",
        )


def _is_only_for_encryption(jwks: Mapping[str, object]) -> bool:
    """Whether all keys are public ones to encrypt to the client, which nothing here does."""
    keys = jwks.get("keys")
    return is_array(keys) and all(
        is_object(key) and key.get("use") == "enc" and not has_private_part(key) for key in keys
    )


def public_keys(jwks: Mapping[str, object]) -> tuple[dict[str, object], ...]:
    """The keys of a set that a client can authenticate with; empty if it contains a private key or no usable key."""
    return usable_keys(jwks, algorithms=FOREIGN_ALGORITHMS)


def _rest(metadata: ClientMetadata) -> dict[str, object]:
    """Links must be plain web links: a page may show them one day, but we never follow them."""
    rest: dict[str, object] = {}
    for name in ("client_uri", "logo_uri", "tos_uri", "policy_uri"):
        link: str | None = getattr(metadata, name)
        if link is not None:
            if not _LINK.fullmatch(link):
                raise OAuthError("invalid_client_metadata", f"{name} must be a web link")
            rest[name] = link
    for name in ("jwks_uri", "software_id", "software_version", "application_type"):
        value: str | None = getattr(metadata, name)
        if value is not None:
            rest[name] = clean_name(value, limit=len(value))
    if metadata.contacts is not None:
        rest["contacts"] = [clean_name(contact) for contact in metadata.contacts]
    if metadata.jwks is not None:
        rest["jwks"] = {"keys": list(public_keys(metadata.jwks))}
    grant_types = frozenset(metadata.grant_types or ())
    if metadata.scope is not None and (known := parse_scope(metadata.scope) & known_scopes(grant_types)):
        rest["scope"] = format_scope(known)
    for name in ("dpop_bound_access_tokens", "require_pushed_authorization_requests"):
        if getattr(metadata, name):
            rest[name] = True
    return rest


def appearance(client: Client) -> str:
    """A digest of what a person sees of a client and of where codes can be sent, for comparing two states of it."""
    shown = (
        client.kind.value,
        client.name,
        client.is_public,
        client.metadata.get("client_uri"),
        sorted({without_loopback_port(uri) for uri in client.redirect_uris}),
    )
    return hashlib.sha256(json.dumps(shown).encode("utf-8", "surrogatepass")).hexdigest()


def is_same_software(one: Client, other: Client) -> bool:
    """Whether two clients, self-registered or from a document, have the same metadata.

    Compares their name, software ID, and redirect URIs; an app on loopback chooses the port and one of three spellings
    at each run. All of that is self-asserted, so it can justify asking a person but never allowing anything.
    """
    if not {one.kind, other.kind} <= {ClientKind.DYNAMIC, ClientKind.METADATA}:
        return False
    return one.name != UNNAMED and _software(one) == _software(other)


def _software(client: Client) -> tuple[object, ...]:
    redirects = {_HOSTS.sub("http://loopback", without_loopback_port(uri)) for uri in client.redirect_uris}
    return client.name, client.metadata.get("software_id"), sorted(redirects)


def with_change_noted(client: Client, *, before: Client | None, now: int) -> Client:
    """A client with new metadata: consent to a client that looks different must not carry over."""
    changed_at = None if before is None else integer_member(before, CHANGED_AT)
    if before is not None and appearance(before) != appearance(client):
        changed_at = now
    return client if changed_at is None else replace(client, metadata={**client.metadata, CHANGED_AT: changed_at})


def shown_redirects(client: Client) -> list[str]:
    """The first few redirect URIs, shortened, since anyone can cause this event, and events are kept."""
    shown = [uri if len(uri) <= _SHOWN else f"{uri[:_SHOWN]}…" for uri in client.redirect_uris[:_SHOWN_URIS]]
    more = len(client.redirect_uris) - len(shown)
    return [*shown, f"{more} more"] if more else shown


def is_loopback_only(client: Client) -> bool:
    """Whether any program on the person's machine could receive this client's codes."""
    return all(is_loopback_redirect(uri) for uri in client.redirect_uris)


def public_members(client: Client) -> dict[str, object]:
    """The client's metadata as RFC 7591 §3.2.1 shows it; absent members are left out, never null."""
    return {
        **{name: value for name, value in client.metadata.items() if name not in PRIVATE_MEMBERS},
        "client_id": client.id,
        "client_id_issued_at": client.created_at,
        "client_name": client.name,
        "redirect_uris": list(client.redirect_uris),
        "grant_types": sorted(client.grant_types),
        "response_types": ["code"],
        "token_endpoint_auth_method": client.auth_method,
    }


def integer_member(client: Client, name: str) -> int | None:
    """One of our own numbers in the metadata."""
    value = client.metadata.get(name)
    return value if isinstance(value, int) else None


def is_metadata_client(client_id: str) -> bool:
    """Whether this client id is the address of a metadata document."""
    return client_id.startswith(("https://", "http://"))


def trusts_consent(client: Client, redirect_uri: str, *, given_at: int) -> bool:
    """Whether earlier consent may be used without asking again.

    Only if the answer reaches nobody but that client: at an https address, or if the code is worthless without the
    client's secret, or if the ID was created for one installation, which stores it with its tokens. With public IDs, of
    documents and of an operator's clients, any local program could silently fetch a code on loopback and under
    private-use schemes (RFC 8252 §8.6). Not after the client changed what the person saw.
    """
    is_known_id = client.kind is not ClientKind.DYNAMIC
    if client.is_public and is_known_id and not redirect_uri.startswith("https:"):
        return False
    changed_at = integer_member(client, CHANGED_AT)
    return changed_at is None or given_at > changed_at
