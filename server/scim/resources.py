"""The supported schemas (RFC 7643 §4), with the attributes of people and groups that the vault uses.

Attributes that are not in them are ignored, as RFC 7644 §3.1 allows: directories send what someone mapped there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field
from scim2_models import (
    URN,
    AuthenticationScheme,
    Bulk,
    CaseExact,
    ChangePassword,
    ComplexAttribute,
    ETag,
    External,
    Filter,
    InvalidValueException,
    Meta,
    Mutability,
    Patch,
    Reference,
    Required,
    Resource,
    ResourceType,
    Schema,
    ScimPolicy,
    ServiceProviderConfig,
    Sort,
    Uniqueness,
)
from scim2_models import User as CoreUser

from server.administration.provisioning import PersonSpec
from server.deployment import Deployment
from vault import groups
from vault.directory import ProvisionedPerson

Some = TypeVar("Some", bound=Resource[Any])
MOST: Final = 200  # resources in one answer
MOST_EMAILS: Final = 20  # of one person
_LONGEST: Final = 1024  # characters of an ID
_MOST_TEXT: Final = 16_384  # characters of everything stored about a person
# Entra sends `remove` with a value, and replaces entries that don't exist; attributes that we don't have are ignored.
POLICY: Final = ScimPolicy(
    unknown=ScimPolicy.Unknown.ignore,
    remove_value_as_filter=ScimPolicy.RemoveValue.apply,
    unmatched_path_filter=ScimPolicy.UnmatchedPathFilter.create,
)


class ScimName(ComplexAttribute):
    """The parts of a person's name."""

    formatted: str | None = None
    family_name: str | None = None
    given_name: str | None = None


class ScimEmail(ComplexAttribute):
    """An address of a person. No one is recognized by it."""

    value: str | None = None
    type: str | None = None
    primary: bool | None = None


class GroupOfUser(ComplexAttribute):
    """A group that the directory put the person into."""

    value: Annotated[str | None, Mutability.read_only, CaseExact.true] = None
    ref: Annotated[Reference[Any] | None, Mutability.read_only] = Field(
        None, serialization_alias="$ref", validation_alias="$ref"
    )
    display: Annotated[str | None, Mutability.read_only] = None


class ScimUser(Resource[Any]):
    """A person (RFC 7643 §4.1)."""

    __schema__ = URN("urn:ietf:params:scim:schemas:core:2.0:User")

    user_name: Annotated[str | None, Uniqueness.server, Required.true] = None
    name: ScimName | None = None
    display_name: str | None = None
    active: Annotated[bool | None, Required.true] = None
    emails: list[ScimEmail] | None = None
    groups: Annotated[list[GroupOfUser] | None, Mutability.read_only] = None


class ScimMember(ComplexAttribute):
    """A person in a group. Groups in groups are not known here."""

    value: Annotated[str | None, Mutability.immutable, CaseExact.true] = None
    ref: Annotated[Reference[CoreUser[Any]] | None, Mutability.immutable] = Field(
        None, serialization_alias="$ref", validation_alias="$ref"
    )
    type: Annotated[str | None, Mutability.immutable] = Field(None, examples=["User"])


class ScimGroup(Resource[Any]):
    """A group (RFC 7643 §4.2)."""

    __schema__ = URN("urn:ietf:params:scim:schemas:core:2.0:Group")

    display_name: Annotated[str | None, Uniqueness.server, Required.true] = None
    members: list[ScimMember] | None = None


MODELS: Final[dict[str, type[Resource[Any]]]] = {"User": ScimUser, "Group": ScimGroup}


def types(deployment: Deployment) -> tuple[ResourceType, ...]:
    """`/ResourceTypes` (RFC 7643 §6)."""
    found: list[ResourceType] = []
    for name, model in MODELS.items():
        one = ResourceType.from_resource(model)
        one.meta = Meta(resource_type="ResourceType", location=location(deployment, "ResourceTypes", name))
        found.append(one)
    return tuple(found)


def schemas(deployment: Deployment) -> tuple[Schema, ...]:
    """`/Schemas` (RFC 7643 §7)."""
    found: list[Schema] = []
    for name, model in MODELS.items():
        one = model.to_schema()
        one.name = name
        one.meta = Meta(resource_type="Schema", location=location(deployment, "Schemas", str(one.id)))
        found.append(one)
    return tuple(found)


def service(deployment: Deployment) -> ServiceProviderConfig:
    """`/ServiceProviderConfig` (RFC 7643 §5)."""
    return ServiceProviderConfig(
        patch=Patch(supported=True),
        bulk=Bulk(supported=False, max_operations=0, max_payload_size=0),
        filter=Filter(supported=True, max_results=MOST),
        change_password=ChangePassword(supported=False),
        sort=Sort(supported=False),
        etag=ETag(supported=True),
        authentication_schemes=[
            AuthenticationScheme(
                type=AuthenticationScheme.Type.oauthbearertoken,
                name="Bearer token",
                description="A token that `token-vault scim token NAME` makes",
                spec_uri=Reference[External]("https://www.rfc-editor.org/rfc/rfc6750"),
                primary=True,
            )
        ],
        meta=Meta(resource_type="ServiceProviderConfig", location=deployment.url("/scim/v2/ServiceProviderConfig")),
    )


def location(deployment: Deployment, kind: str, name: str) -> str:
    """Where a resource is."""
    return deployment.url(f"/scim/v2/{kind}/{name}")


# People


def user_of(deployment: Deployment, person: ProvisionedPerson, memberships: Iterable[groups.Membership]) -> ScimUser:
    """A person as the directory sees them."""
    found = ScimUser.model_validate({"schemas": [str(ScimUser.__schema__)], **person.attributes}, scim_policy=POLICY)
    found.id = person.user_id
    found.external_id = person.external_id
    found.user_name = person.user_name
    found.active = not person.is_disabled
    found.groups = [
        GroupOfUser(
            value=one.group.id,
            display=one.group.name,
            ref=Reference[Any](location(deployment, "Groups", one.group.id)),
        )
        for one in memberships
        if groups.PROVISIONED in one.sources
    ] or None
    found.meta = _meta(deployment, "User", found.id, person.created_at, person.changed_at)
    return _with_version(found)


def with_active(content: Mapping[str, object], *, is_active: bool) -> dict[str, object]:
    """What was sent about a person; an omitted `active` stays unchanged, so that omitting it enables nobody."""
    is_said = any(name.lower() == "active" for name in content)
    return dict(content) if is_said else {**content, "active": is_active}


def person_spec(user: ScimUser) -> PersonSpec:
    """What the directory says about a person. Raises InvalidValueException."""
    said = user.model_dump(include={"name", "display_name", "emails"})
    said.pop("schemas", None)
    if len(user.emails or ()) > MOST_EMAILS or len(user.external_id or "") > _LONGEST or len(str(said)) > _MOST_TEXT:
        raise InvalidValueException(detail="A person has too many values, or one that is too long.")
    return PersonSpec(
        user_name=(user.user_name or "").strip(),
        external_id=user.external_id or None,
        is_active=bool(user.active),
        attributes=said,
    )


# Groups


def group_of(deployment: Deployment, group: groups.Group, members: Iterable[groups.Member]) -> ScimGroup:
    """A group as the directory sees it: with the members that the directory named."""
    found = ScimGroup(
        id=group.id,
        external_id=group.external_id,
        display_name=group.name,
        members=[
            ScimMember(
                value=one.user_id,
                type="User",
                ref=Reference[CoreUser[Any]](location(deployment, "Users", one.user_id)),
            )
            for one in members
            if groups.PROVISIONED in one.sources
        ]
        or None,
        meta=_meta(deployment, "Group", group.id, group.created_at, group.changed_at),
    )
    return _with_version(found)


def _meta(deployment: Deployment, kind: str, name: str, created_at: int, changed_at: int) -> Meta:
    return Meta(
        resource_type=kind,
        created=datetime.fromtimestamp(created_at, UTC),
        last_modified=datetime.fromtimestamp(changed_at, UTC),
        location=location(deployment, f"{kind}s", name),
    )


def _with_version(found: Some) -> Some:
    if found.meta is not None:
        content = found.model_dump_json().encode()
        found.meta.version = f'W/"{hashlib.sha256(content).hexdigest()[:20]}"'
    return found
