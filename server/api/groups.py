"""Groups, their members, and directories' tokens in the Admin API."""

from __future__ import annotations

from pydantic import Field

from server.administration import group_accounts, groups, people, provisioning
from server.api.operations import (
    AdminCall,
    ApiOutput,
    Instant,
    ListPage,
    PageQuery,
    Strict,
    instant,
    instant_of,
    operation,
    read_cursor,
    write_cursor,
)
from vault import directory, shared_connections
from vault import groups as stored
from vault.groups import Group
from vault.shared_connections import SharedConnection


class GroupRecord(ApiOutput):
    """A group of people."""

    id: str
    name: str
    members: int
    directory: bool = Field(description="Whether a company's directory manages it")
    created_at: Instant


class MemberRecord(ApiOutput):
    """A person in a group."""

    person_id: str
    name: str
    disabled: bool
    sources: list[str] = Field(description="`local`: an admin; `scim`: the directory; `openid:NAME`: a sign-in")
    expires_at: Instant | None = Field(description="When a membership from a sign-in ends, if no other source keeps it")


class GroupDetails(GroupRecord):
    """A group with its members."""

    people: list[MemberRecord]


class GroupsPage(ListPage[GroupRecord]):
    """Groups by name."""


class NewGroup(Strict):
    """A group to create."""

    name: str = Field(min_length=1, max_length=200)


class GroupConnectionRecord(ApiOutput):
    """An account of a group."""

    id: str
    provider: str
    account: str
    status: str
    scopes: list[str] = Field(description="The most that members' agents can have")
    ask: list[str] = Field(description="What the member approves each time")
    given_by: str


class GroupConnections(ApiOutput):
    """A group's accounts."""

    items: list[GroupConnectionRecord]


class NewGroupConnection(Strict):
    """An account to give."""

    connection_id: str = Field(min_length=1, max_length=64, description="One of the caller's own")
    reads_only: bool = Field(default=False, description="Members' agents only read")
    asks_writes: bool = Field(default=False, description="Members approve each call that may change something")


class GroupConnectionRule(Strict):
    """What members' agents can do with the account. Omitted fields are off."""

    reads_only: bool = Field(default=False, description="Members' agents only read")
    asks_writes: bool = Field(default=False, description="Members approve each call that may change something")


class GivenConnection(ApiOutput):
    """The account, which now belongs to the group."""

    id: str = Field(description="A new ID")


class DirectoryTokenRecord(ApiOutput):
    """A directory's token, without its secret."""

    name: str
    created_at: Instant
    expires_at: Instant | None
    used_at: Instant | None
    previous_until: Instant | None = Field(description="When the previous token stops working")


class DirectoryTokens(ApiOutput):
    """Directories' tokens."""

    items: list[DirectoryTokenRecord]


class NewDirectoryToken(Strict):
    """A token to create or rotate."""

    name: str = Field(min_length=1, max_length=60)
    days: int | None = Field(default=None, ge=1, le=3650, description="Days until it ends; null for never")
    keep_hours: int = Field(default=24, ge=0, le=168, description="Hours for which the previous token keeps working")


class MadeDirectoryToken(ApiOutput):
    """A new token."""

    url: str = Field(description="The address that the directory calls")
    token: str = Field(repr=False, description="Shown only here")


class DirectoryPerson(Strict):
    """Who the person is in the directory."""

    external_id: str | None = Field(default=None, min_length=1, max_length=200, description="Their ID there, if known")


class DirectoryPersonRecord(ApiOutput):
    """A person whom the directory manages."""

    person_id: str
    name: str
    external_id: str | None


@operation("GET", "/groups", scope="admin:read")
async def list_groups(call: AdminCall, query: PageQuery) -> GroupsPage:
    """List groups by name."""
    place = read_cursor(query.cursor, str)
    after = "" if place is None else str(place[0])
    found, rest = await stored.list_page(call.deployment.database, after=after, limit=query.limit)
    items = [await _record(call, one) for one in found]
    return GroupsPage(items=items, next_cursor=write_cursor(rest) if rest else None)


@operation("POST", "/groups", scope="admin:people", status=201, refusals=["conflict"])
async def create_group(call: AdminCall, body: NewGroup) -> GroupRecord:
    """Create a group."""
    return await _record(call, await groups.create(call.actor, body.name))


@operation("GET", "/groups/{group_id}", scope="admin:read")
async def get_group(call: AdminCall) -> GroupDetails:
    """Show a group and who is in it."""
    return await _details(call, await _group_of(call))


@operation("PATCH", "/groups/{group_id}", scope="admin:people", refusals=["conflict"])
async def rename_group(call: AdminCall, body: NewGroup) -> GroupDetails:
    """Rename a group that no directory manages."""
    return await _details(call, await groups.rename(call.actor, await _group_of(call), body.name))


@operation("DELETE", "/groups/{group_id}", scope="admin:people", status=204, refusals=["conflict"])
async def delete_group(call: AdminCall) -> None:
    """Delete a group that no directory manages."""
    await groups.delete(call.actor, await _group_of(call))


@operation("PUT", "/groups/{group_id}/people/{person_id}", scope="admin:people", status=204)
async def add_group_member(call: AdminCall) -> None:
    """Add a person to a group. Adding a member again changes nothing."""
    person = await people.person_with_id(call.deployment.database, call.param("person_id"))
    await groups.add_member(call.actor, await _group_of(call), person)


@operation("DELETE", "/groups/{group_id}/people/{person_id}", scope="admin:people", status=204, refusals=["conflict"])
async def remove_group_member(call: AdminCall) -> None:
    """Remove a person from a group to which an admin added them."""
    person = await people.person_with_id(call.deployment.database, call.param("person_id"))
    await groups.remove_member(call.actor, await _group_of(call), person)


@operation("GET", "/groups/{group_id}/connections", scope="admin:read")
async def list_group_connections(call: AdminCall) -> GroupConnections:
    """List a group's accounts, which its members' agents can use."""
    found = await shared_connections.of_group(call.deployment.database, await _group_of(call))
    return GroupConnections(items=[_connection_record(call, one) for one in found])


def _connection_record(call: AdminCall, one: SharedConnection) -> GroupConnectionRecord:
    return GroupConnectionRecord(
        id=one.connection.id,
        provider=one.connection.provider,
        account=one.connection.label,
        status=one.connection.status(call.deployment.now()),
        scopes=sorted(one.for_members.scopes),
        ask=sorted(one.rule.ask),
        given_by=one.given_by,
    )


@operation("POST", "/groups/{group_id}/connections", scope="admin:people", status=201, refusals=["conflict"])
async def give_connection(call: AdminCall, body: NewGroupConnection) -> GivenConnection:
    """Give one of the caller's own accounts to a group. From then on, it belongs to the group."""
    group = await _group_of(call)
    given = await group_accounts.give(
        call.actor,
        call.user,
        body.connection_id,
        group,
        reads_only=body.reads_only,
        asks_writes=body.asks_writes,
    )
    return GivenConnection(id=given.id)


@operation("PUT", "/groups/{group_id}/connections/{connection_id}", scope="admin:people", refusals=["conflict"])
async def change_group_connection(call: AdminCall, body: GroupConnectionRule) -> GroupConnectionRecord:
    """Replace the rule of a group's account. It applies to the next calls. Omitted fields are off."""
    changed = await group_accounts.change_rule(
        call.actor,
        await _group_of(call),
        call.param("connection_id"),
        reads_only=body.reads_only,
        asks_writes=body.asks_writes,
    )
    return _connection_record(call, changed)


@operation("DELETE", "/groups/{group_id}/connections/{connection_id}", scope="admin:people", status=204)
async def end_group_connection(call: AdminCall) -> None:
    """Disconnect a group's account for all its members."""
    await group_accounts.end(call.actor, await _group_of(call), call.param("connection_id"))


@operation("GET", "/directory-tokens", scope="admin:read")
async def list_directory_tokens(call: AdminCall) -> DirectoryTokens:
    """List the tokens with which directories write people and groups (SCIM 2.0)."""
    found = await directory.list_tokens(call.deployment.database)
    return DirectoryTokens(
        items=[
            DirectoryTokenRecord(
                name=one.name,
                created_at=instant_of(one.created_at),
                expires_at=instant(one.expires_at),
                used_at=instant(one.used_at),
                previous_until=instant(one.previous_until),
            )
            for one in found
        ]
    )


@operation("POST", "/directory-tokens", scope="admin:people", status=201)
async def make_directory_token(call: AdminCall, body: NewDirectoryToken) -> MadeDirectoryToken:
    """Create a token for a directory, or rotate the one with this name."""
    secret, _ = await provisioning.make_token(call.actor, body.name, days=body.days, grace=body.keep_hours * 3600)
    return MadeDirectoryToken(url=call.deployment.url("/scim/v2"), token=secret)


@operation("DELETE", "/directory-tokens/{token_name}", scope="admin:people", status=204)
async def end_directory_token(call: AdminCall) -> None:
    """End a directory's token immediately. People and groups stay."""
    await provisioning.end_token(call.actor, call.param("token_name"))


@operation("POST", "/people/{person_id}/directory", scope="admin:people", status=201, refusals=["conflict"])
async def let_directory_manage(call: AdminCall, body: DirectoryPerson) -> DirectoryPersonRecord:
    """Let the directory change, disable, and delete an existing person."""
    person = await people.person_with_id(call.deployment.database, call.param("person_id"))
    taken = await provisioning.take_over(call.actor, person, external_id=body.external_id)
    return DirectoryPersonRecord(person_id=taken.user_id, name=taken.name, external_id=taken.external_id)


async def _group_of(call: AdminCall) -> Group:
    return await groups.group_with_id(call.deployment.database, call.param("group_id"))


async def _record(call: AdminCall, group: Group) -> GroupRecord:
    deployment = call.deployment
    return GroupRecord(
        id=group.id,
        name=group.name,
        members=await stored.count_members(deployment.database, group.id, now=deployment.now()),
        directory=group.is_provisioned,
        created_at=instant_of(group.created_at),
    )


async def _details(call: AdminCall, group: Group) -> GroupDetails:
    deployment = call.deployment
    found = await stored.members(deployment.database, group.id, now=deployment.now())
    return GroupDetails(
        **(await _record(call, group)).model_dump(),
        people=[
            MemberRecord(
                person_id=one.user_id,
                name=one.name,
                disabled=one.is_disabled,
                sources=list(one.sources),
                expires_at=instant(one.expires_at),
            )
            for one in found
        ],
    )


OPERATIONS = (
    list_groups,
    create_group,
    get_group,
    rename_group,
    delete_group,
    add_group_member,
    remove_group_member,
    list_group_connections,
    give_connection,
    change_group_connection,
    end_group_connection,
    list_directory_tokens,
    make_directory_token,
    end_directory_token,
    let_directory_manage,
)
