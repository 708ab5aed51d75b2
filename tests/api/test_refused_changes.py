"""Reasons to refuse an admin's change, each with the same change that succeeds once that reason is gone."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace

import pytest

from server.administration import (
    access,
    companies,
    group_accounts,
    groups,
    own_apis,
    people,
    provisioning,
    registrations,
    webhooks,
)
from server.administration.actor import Actor, ChangeRefused
from server.administration.registrations import RegistrationInput
from tests.support.rooms.admin_room import AdminRoom, problem
from vault import company_permissions, connections, delegations, shared_connections, users
from vault import groups as stored
from vault.groups import LOCAL, Group
from vault.notices import endpoints
from vault.records import Role, User
from vault.registrations import StoredRegistration
from vault.shared_connections import SharingRule
from vault.upstream import Account, TokenAnswer

READ, WRITE = frozenset({"channels:read"}), frozenset({"chat:write"})
HOOK = "https://hooks.example/vault"


async def refusal(change: Awaitable[object]) -> ChangeRefused:
    with pytest.raises(ChangeRefused) as refused:
        await change
    return refused.value


def actor_for(room: AdminRoom, person: User) -> Actor:
    return Actor(room.deployment, person, "administration")


async def test_an_endpoint_hears_of_known_events_and_there_are_so_many(room: AdminRoom) -> None:
    known = sorted(endpoints.TYPES)[:1]
    refused = await refusal(webhooks.add(room.operator, HOOK, events=[*known, "account.opend"]))
    assert (refused.reason, refused.field) == ("endpoint_refused", "events")
    for number in range(20):
        last = await webhooks.add(room.operator, f"{HOOK}/{number}", events=known)
    assert (await refusal(webhooks.add(room.operator, HOOK, events=known))).kind == "conflict"
    await webhooks.remove(room.operator, last)
    assert (await webhooks.add(room.operator, HOOK, events=known)).url == HOOK
    for one in await webhooks.list_all(room.deployment):
        await webhooks.remove(room.operator, one)


async def test_an_endpoint_that_was_removed_is_not_changed(room: AdminRoom) -> None:
    made = await webhooks.add(room.operator, HOOK, events=())
    for overlap in (-1, webhooks.LONGEST_OVERLAP + 1):
        refused = await refusal(webhooks.rotate(room.operator, made, overlap=overlap))
        assert (refused.reason, refused.field) == ("endpoint_refused", "overlap_hours")
    for overlap in (0, webhooks.LONGEST_OVERLAP):
        assert (await webhooks.rotate(room.operator, made, overlap=overlap)).id == made.id
    await webhooks.remove(room.operator, made)
    for change in (webhooks.remove(room.operator, made), webhooks.rotate(room.operator, made, overlap=0)):
        assert (await refusal(change)).reason == "no_endpoint"


async def test_what_an_agent_may_not_do_is_not_asked_about_or_taken(room: AdminRoom) -> None:
    user, client = await room.room.user(), await room.room.agent()
    account = await room.room.account(user, "slack", label="Team", scopes=READ | WRITE)
    async with room.deployment.transaction() as transaction:
        which = {"user_id": user.id, "client_id": client.id, "connection_id": account.id}
        await delegations.allow(transaction, **which, scopes=WRITE, now=room.deployment.now())
    held = await access.permission_of(room.operator, user, client_id=client.id, connection_id=account.id)
    never = access.permission_of(room.operator, user, client_id=client.id, connection_id="another")
    assert (await refusal(never)).reason == "no_permission"
    refused = await refusal(access.set_ask(room.operator, held, scopes=WRITE | READ, tools=()))
    assert (refused.reason, refused.field) == ("ask_refused", "scopes")
    refused = await refusal(access.set_ask(room.operator, held, scopes=WRITE, tools=("slack_pots",)))
    assert (refused.reason, refused.field) == ("ask_refused", "tools")
    assert await access.set_ask(room.operator, held, scopes=WRITE, tools=("slack_post",)) == frozenset()
    await access.revoke(room.operator, held)
    assert (await refusal(access.revoke(room.operator, held))).reason == "no_permission"
    again = access.permission_of(room.operator, user, client_id=client.id, connection_id=account.id)
    assert (await refusal(again)).reason == "no_permission"


async def test_two_who_require_approvals_at_once_lose_none(room: AdminRoom) -> None:
    """Only the person can remove a requirement, so nobody who adds one may undo what came meanwhile."""
    user, client = await room.room.user(), await room.room.agent()
    account = await room.room.account(user, "slack", label="Team", scopes=READ | WRITE)
    which = {"user_id": user.id, "client_id": client.id, "connection_id": account.id}
    async with room.deployment.transaction() as transaction:
        await delegations.allow(transaction, **which, scopes=READ | WRITE, now=room.deployment.now())
    held = await access.permission_of(room.operator, user, client_id=client.id, connection_id=account.id)

    async def ask(*, adds: bool) -> frozenset[str]:
        await access.set_ask(room.operator, held, scopes=READ, tools=("slack_post",), adds=True)
        await access.set_ask(room.operator, held, scopes=WRITE, tools=(), adds=adds)
        stored = await delegations.get(room.deployment.database, **which)
        return frozenset() if stored is None else stored.ask

    assert await ask(adds=True) == READ | WRITE | {"tool:slack_post"}
    assert await ask(adds=False) == WRITE, "exactly these"
    await access.revoke(room.operator, held)
    refused = await refusal(access.set_ask(room.operator, held, scopes=WRITE, tools=(), adds=True))
    assert refused.reason == "no_permission"


async def test_only_what_was_ended_and_stayed_as_it_was_is_resumed(room: AdminRoom) -> None:
    user, client, operator = await room.room.user(), await room.room.agent(), room.operator
    missing = companies.permission_of(operator, user, client_id=client.id, company="acme")
    assert (await refusal(missing)).reason == "no_company_permission"
    async with room.deployment.transaction() as transaction:
        which = {"user_id": user.id, "client_id": client.id, "company": "acme"}
        held = await company_permissions.hold(transaction, **which, now=room.deployment.now())
        await company_permissions.save(transaction, held)
    held = await companies.permission_of(operator, user, client_id=client.id, company="acme")
    assert (await refusal(companies.resume(operator, held))).reason == "not_ended"
    await companies.end(operator, held)
    ended = await companies.permission_of(operator, user, client_id=client.id, company="acme")
    assert ended.ended_at is not None
    for before in (replace(ended, ended_at=ended.ended_at - 60), replace(ended, ended_reason="cut_off")):
        assert (await refusal(companies.resume(operator, before))).reason == "changed"
    assert (await companies.resume(operator, ended)).ended_at is None


async def test_a_group_that_a_sign_in_fills_is_kept(room: AdminRoom) -> None:
    user, operator = await room.room.user(), room.operator
    group = await groups.create(operator, "Filled")
    async with room.deployment.transaction() as transaction:
        await stored.add_member(transaction, group.id, user.id, source="openid:company", now=room.deployment.now())
    assert (await refusal(groups.delete(operator, group, is_kept_if_filled=True))).reason == "group_refused"
    assert (await refusal(groups.remove_member(operator, group, user))).reason == "not_member"
    await groups.add_member(operator, group, user)
    await groups.remove_member(operator, group, user)
    async with room.deployment.transaction() as transaction:
        await stored.remove_member(transaction, group.id, user.id, source="openid:company")
    await groups.delete(operator, group, is_kept_if_filled=True)
    assert await stored.get_group(room.deployment.database, group.id) is None


async def test_a_group_has_members_that_there_are(room: AdminRoom) -> None:
    user = await room.room.user()
    assert (await refusal(groups.save(room.operator, "Declared", [user.name, "nobody"]))).reason == "group_refused"
    await groups.save(room.operator, "Declared", [user.name])
    found = await stored.find_group(room.deployment.database, "Declared")
    assert found is not None
    assert await stored.members_by(room.deployment.database, found.id, source=LOCAL) == {user.id}


async def test_only_who_connected_an_account_gives_it_to_a_group(room: AdminRoom) -> None:
    user, alice = await room.room.user(), await room.person("alice")
    group = await groups.create(room.operator, "Givers")
    account = await room.room.account(user, "slack", label="Team", scopes=READ | WRITE)
    options = {"reads_only": False, "asks_writes": False}
    refused = await refusal(group_accounts.give(actor_for(room, alice), user, account.id, group, **options))
    assert refused.reason == "not_yours_to_give"
    assert (await refusal(group_accounts.give(room.operator, alice, account.id, group, **options))).kind == "not_found"
    given = await group_accounts.give(room.operator, user, account.id, group, **options)
    assert (await group_accounts.shared_with_id(room.operator, group, given.id)).connection.id == given.id
    own = await room.room.account(alice, "slack", label="Own", scopes=READ | WRITE)
    given = await group_accounts.give(actor_for(room, alice), alice, own.id, group, **options)
    assert (await group_accounts.shared_with_id(room.operator, group, given.id)).rule.scopes == READ | WRITE


async def test_an_account_of_a_service_that_is_gone_keeps_its_rule(room: AdminRoom) -> None:
    """For example, after the provider's file was removed."""
    user, deployment = await room.room.user(), room.deployment
    group, slack = await groups.create(room.operator, "Leftovers"), deployment.catalog.provider("slack").policy()
    answer = TokenAnswer("made-up", "made-up", scopes=READ | WRITE, expires_in=3600, account=Account("a", "a"))
    options = {"reads_only": True, "asks_writes": False}
    for provider, is_there in (("gone", False), ("slack", True)):
        policy = replace(slack, provider=provider)
        async with deployment.transaction() as transaction:
            asked = {"user_id": user.id, "provider": provider, "answer": answer, "asked": READ | WRITE}
            made = await connections.open_connection(
                transaction, deployment.keys, **asked, policy=policy, now=deployment.now()
            )
        if not is_there:
            give = group_accounts.give(room.operator, user, made.id, group, **options)
            assert (await refusal(give)).reason == "no_connection"
        async with deployment.transaction() as transaction:
            rule = SharingRule(READ | WRITE, frozenset())
            about = {"rule": rule, "by": user.name, "policy": policy, "now": deployment.now()}
            given = await shared_connections.give(transaction, deployment.keys, made, group, **about)
        change = group_accounts.change_rule(room.operator, group, given.id, **options)
        if is_there:
            assert (await change).rule.scopes == READ
        else:
            assert (await refusal(change)).reason == "no_connection"


async def test_a_directory_manages_a_person_once_and_enables_whom_it_disabled(room: AdminRoom) -> None:
    user, directory = await room.room.user(), Actor(room.deployment, None, "scim", directory="okta")
    await provisioning.take_over(directory, user, external_id=None)
    assert (await refusal(provisioning.take_over(directory, user, external_id=None))).reason == "person_changed"
    await people.set_disabled(room.operator, user, is_disabled=True)
    assert (await refusal(people.set_disabled(directory, user, is_disabled=False))).reason == "person_changed"
    await people.set_disabled(room.operator, user, is_disabled=False)
    await people.set_disabled(directory, user, is_disabled=True)
    assert await people.set_disabled(directory, user, is_disabled=False)


async def test_a_directory_takes_only_a_group_that_nobody_has(room: AdminRoom) -> None:
    async def add(name: str) -> Group:
        return await provisioning.add_group(room.operator, name, external_id=None, members=())

    held = await groups.create(room.operator, "Held")
    await groups.add_member(room.operator, held, await room.room.user())
    await groups.create(room.operator, "Nobody's")
    for name in ("Held", "Nobody's"):
        if name == "Nobody's":
            assert (await add(name)).is_provisioned
        with pytest.raises(stored.GroupNameTaken):
            await add(name)


async def test_a_directory_has_a_token_whose_name_can_be_written(room: AdminRoom) -> None:
    for name in ("", "x" * 61, "a b"):
        refused = await refusal(provisioning.make_token(room.operator, name, days=None, grace=0))
        assert (refused.reason, refused.field) == ("token_name", "name")
    for name in ("x" * 60, "a.b_c-d"):
        assert not (await provisioning.make_token(room.operator, name, days=None, grace=0))[1]
        await provisioning.end_token(room.operator, name)


async def test_who_was_deleted_changes_nothing(room: AdminRoom) -> None:
    person = await room.room.user()
    await people.set_role(room.operator, person, Role.ADMINISTRATOR)
    assert await groups.create(actor_for(room, person), "While an admin")
    await people.delete(room.operator, person)
    assert (await refusal(groups.create(actor_for(room, person), "Afterwards"))).reason == "not_admin"


async def test_a_directory_does_nothing_to_an_owner(room: AdminRoom) -> None:
    owner, directory = await room.room.user(), Actor(room.deployment, None, "scim", directory="okta")
    await people.set_role(room.operator, owner, Role.OWNER)
    assert (await refusal(people.set_disabled(directory, owner, is_disabled=True))).reason == "owner_only"
    await people.set_role(room.operator, owner, Role.ADMINISTRATOR)
    assert await people.set_disabled(directory, owner, is_disabled=True)


@pytest.mark.parametrize(
    ("url", "is_usable"),
    [
        ("https://api.example/v1", True),
        ("urn:example:orders", True),
        ("ftp://api.example/v1", False),
        ("https://", False),
        ("https://api.example/#part", False),
        ("https://[api.example/", False),
        ("https://api.example/a b", False),
    ],
)
async def test_an_identifier_can_be_an_audience(room: AdminRoom, url: str, *, is_usable: bool) -> None:
    if is_usable:
        own_apis.check_identifier(room.deployment, url)
        return
    with pytest.raises(ChangeRefused, match="use an absolute URL without a fragment"):
        own_apis.check_identifier(room.deployment, url)


async def test_a_registration_that_was_removed_is_not_removed_again(room: AdminRoom) -> None:
    provider = registrations.provider_named(room.deployment, "shopify")
    right = {name: about.example for name, about in provider.inputs.items()}
    named = next(name for name, about in provider.inputs.items() if about.default is None)
    wanted = RegistrationInput("a" * 32, "b" * 38, right)
    wrong: list[tuple[dict[str, str], str, str]] = [
        ({**right, "unknown": "x"}, "registration_refused", "unknown"),
        ({name: value for name, value in right.items() if name != named}, "input_missing", named),
        ({**right, named: "not a value/.."}, "registration_refused", named),
    ]
    for inputs, reason, name in wrong:
        change = registrations.save(room.operator, provider, replace(wanted, inputs=inputs), stored=None)
        refused = await refusal(change)
        assert (refused.reason, refused.field) == (reason, f"inputs.{name}"), inputs
    await registrations.save(room.operator, provider, wanted, stored=None)
    made = await registrations.own_registration(room.operator, provider, revision=None)
    assert made is not None
    keeps_secret = replace(wanted, client_secret="")
    await registrations.save(room.operator, provider, keeps_secret, stored=made)
    again = await registrations.own_registration(room.operator, provider, revision=None)
    assert again is not None
    assert again.sealed is not None
    unreadable = replace(again, sealed=again.sealed[:-1] + bytes([again.sealed[-1] ^ 1]))
    refused = await refusal(registrations.save(room.operator, provider, keeps_secret, stored=unreadable))
    assert (refused.reason, refused.field) == ("unreadable", "client_secret")
    spoilt = replace(again, revision="spoilt")
    assert (
        await refusal(registrations.remove(room.operator, provider, stored=spoilt))
    ).reason == "registration_changed"
    await registrations.remove(room.operator, provider, stored=again)
    assert (await refusal(registrations.remove(room.operator, provider, stored=None))).reason == "registration_changed"


async def test_a_registration_that_would_send_tokens_to_another_host_is_refused_while_there_are_any(
    room: AdminRoom,
) -> None:
    provider = registrations.provider_named(room.deployment, "gitlab")
    wanted = RegistrationInput("a" * 64, "gloas-" + "b" * 64, {"host": "git.example"})
    other = replace(wanted, inputs={"host": "other.example"})

    async def read_stored() -> StoredRegistration | None:
        return await registrations.own_registration(room.operator, provider, revision=None)

    await registrations.save(room.operator, provider, wanted, stored=None)
    user = await room.room.user()
    account = await room.room.account(user, "gitlab", label="Team", scopes=frozenset({"read_user"}))
    renewed = replace(wanted, client_secret="gloas-" + "c" * 64)
    await registrations.save(room.operator, provider, renewed, stored=await read_stored())
    change = registrations.save(room.operator, provider, other, stored=await read_stored())
    assert (await refusal(change)).reason == "inputs_in_use"
    change = registrations.remove(room.operator, provider, stored=await read_stored())
    assert (await refusal(change)).reason == "still_connected"
    admin = actor_for(room, await room.person("alice"))
    change = registrations.save(admin, provider, wanted, stored=None)
    assert (await refusal(change)).reason == "inputs_in_use", "which host it was before is unknown"
    change = registrations.save(room.operator, provider, wanted, stored=None)
    assert (await refusal(change)).reason == "registration_changed", "only the operator may know"
    async with room.deployment.transaction() as transaction:
        await connections.disconnect(transaction, room.deployment.keys, account, now=room.deployment.now())
    change = registrations.save(room.operator, provider, other, stored=await read_stored())
    assert (await refusal(change)).reason == "inputs_in_use"
    change = registrations.remove(room.operator, provider, stored=await read_stored())
    assert (await refusal(change)).reason == "still_ending"
    async with room.deployment.transaction() as transaction:
        sql = "update upstream_revocations set done_at = :now, next_at = null where connection_id = :id"
        await transaction.execute(sql, {"now": room.deployment.now(), "id": account.id})
    keeps = replace(other, client_secret="")
    change = registrations.save(room.operator, provider, keeps, stored=await read_stored())
    refused = await refusal(change)
    assert (refused.reason, refused.field) == ("secret_elsewhere", "client_secret"), "it would get the stored secret"
    await registrations.save(room.operator, provider, other, stored=await read_stored())
    await registrations.save(room.operator, provider, keeps, stored=await read_stored())
    await registrations.remove(room.operator, provider, stored=await read_stored())


async def test_a_registration_whose_inputs_no_longer_exist_can_be_entered_again(room: AdminRoom) -> None:
    provider = registrations.provider_named(room.deployment, "gitea")
    wanted = RegistrationInput("7e9f3a52-2f0c-4a1f-9d4c-0123456789ab", "gto_" + "b" * 52, {"host": "git.example"})
    await registrations.save(room.operator, provider, wanted, stored=None)
    stored = await registrations.own_registration(room.operator, provider, revision=None)
    assert stored is not None
    user = await room.room.user()
    account = await room.room.account(user, "gitea", label="Team", scopes=frozenset({"read:user"}))
    earlier = replace(stored, inputs={"subdomain": "git"})  # as of an earlier version of the file
    change = registrations.save(room.operator, provider, wanted, stored=earlier)
    assert (await refusal(change)).reason == "inputs_in_use"
    async with room.deployment.transaction() as transaction:
        await connections.disconnect(transaction, room.deployment.keys, account, now=room.deployment.now())
        await transaction.execute("update upstream_revocations set done_at = 1, next_at = null")
    await registrations.save(room.operator, provider, wanted, stored=earlier)


async def test_a_refused_change_leaves_the_secrets_of_those_before_it(room: AdminRoom) -> None:
    """Nothing can show them again."""
    wanted = {"people": {"henry": {}, "alice": {"admin": False}}}
    told = problem(await room.call("POST", "/apply", json=wanted), 409, "last_admin")["changes"]
    assert isinstance(told, list)
    (change,) = told
    assert (change["change"], change["kind"], change["name"]) == ("create", "person", "henry")
    assert "/sign-in/link?ticket=" in change["secret"]
    assert await users.find_user(room.deployment.database, "henry") is not None
    assert "changes" not in problem(await room.call("POST", "/apply", json={"poeple": {}}), 400, "invalid_request")


@pytest.mark.parametrize(
    ("path", "pointer", "told"),
    [
        ("/people?limti=2", "limti", "there is no such key. Did you mean limit?"),
        ("/activity?person=%21", "person", "doesn't have the expected form (ID of a person)"),
    ],
)
async def test_a_wrong_value_is_told_with_what_is_right(room: AdminRoom, path: str, pointer: str, told: str) -> None:
    refused = problem(await room.call("GET", path), 400, "invalid_request")
    assert refused["errors"] == [{"pointer": pointer, "message": told}]
