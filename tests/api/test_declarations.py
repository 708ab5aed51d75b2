"""`token-vault apply` and its Admin API counterpart: plan, change once, and remove nothing unless asked to."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from server.administration import people, reconciliation
from server.administration.actor import Actor, ChangeRefused
from server.administration.agents import BackchannelSpec, RegisteredAgent, asking_of
from server.administration.declaration import Declaration, DeclarationRefused, parse_declaration, read_declaration
from server.oauth.exchange import release
from server.sign_in.password import OWNER_ISSUER
from tests.support.inspection import read_events
from tests.support.rooms.admin_room import REDIRECT, AdminRoom, problem, running_admin_room
from vault import apis, groups, users
from vault.approvals.access_requests import MEMBERSHIP
from vault.records import Role

FILE = """
[people.alice]
admin = true

[people.grace]
identities = [{ issuer = "https://id.example", subject = "42" }]

[agents.reporting]
title = "Reporting"
redirect_uris = ["https://app.example/cb"]
confidential = true
release = { slack = "proxy" }

[apis."https://api.example/v1"]
name = "Orders"
scopes = ["orders:read"]
clients = ["reporting"]

[providers.dropbox]
client_id = "client-at-dropbox"
client_secret_file = "dropbox.secret"
"""


@pytest.fixture
async def room(tmp_path: Path) -> AsyncGenerator[AdminRoom]:
    async with running_admin_room(tmp_path / "vault") as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "dropbox.secret").write_text("a-secret-of-dropbox\n")
    found = tmp_path / "vault.toml"
    found.write_text(FILE)
    return found


def _change_lines(changes: tuple[reconciliation.PlannedChange, ...]) -> list[str]:
    return [f"{one.verb} {one.kind} {one.name}" for one in changes]


async def test_a_file_is_planned_applied_and_then_has_nothing_to_change(room: AdminRoom, file: Path) -> None:
    wanted = read_declaration(file)
    pending = await reconciliation.plan(room.operator, wanted)
    assert _change_lines(pending) == [
        "create person grace",
        "create agent reporting",
        "create api https://api.example/v1",
        "create provider dropbox",
    ]
    assert await users.find_user(room.deployment.database, "grace") is None  # a plan changes nothing
    made = await reconciliation.apply(pending)
    assert [bool(one.secret) for one in made] == [True, True, False, False]  # link and secret, once
    assert "a-secret-of-dropbox" not in repr(pending) + repr(made)
    assert await reconciliation.plan(room.operator, wanted) == ()
    (linked,) = await apis.linked_clients(room.deployment.database, "https://api.example/v1")
    assert (await reconciliation.declared_agents(room.operator))["reporting"].id == linked


async def test_what_differs_is_named_and_changed(room: AdminRoom, file: Path) -> None:
    await reconciliation.apply(await reconciliation.plan(room.operator, read_declaration(file)))
    file.write_text(FILE.replace("Reporting", "Reports").replace("[people.grace]", "[people.grace]\ndisabled = true"))
    (file.parent / "dropbox.secret").write_text("another-secret-of-dropbox")
    pending = await reconciliation.plan(room.operator, read_declaration(file))
    assert {one.name: [(d.name, d.before, d.after) for d in one.differences] for one in pending} == {
        "grace": [("disabled", False, True)],
        "reporting": [("title", "Reporting", "Reports")],
        "dropbox": [("client_secret", None, "(secret)")],
    }
    before = await reconciliation.declared_agents(room.operator)
    await reconciliation.apply(pending)
    assert await reconciliation.plan(room.operator, read_declaration(file)) == ()
    after = await reconciliation.declared_agents(room.operator)
    assert (after["reporting"].id, after["reporting"].name) == (before["reporting"].id, "Reports")
    assert after["reporting"].secret_hash == before["reporting"].secret_hash
    assert "client.changed" in await room.room.kinds()


async def test_nothing_is_removed_unless_asked_and_only_from_sections_that_are_there(
    room: AdminRoom, file: Path
) -> None:
    await reconciliation.apply(await reconciliation.plan(room.operator, read_declaration(file)))
    by_hand = await room.room.agent()
    less = parse_declaration({"agents": {}, "people": {"alice": {"admin": True}}})
    assert await reconciliation.plan(room.operator, less) == ()
    pending = await reconciliation.plan(room.operator, less, prunes=True)
    assert _change_lines(pending) == ["remove person grace", "remove agent reporting"]
    await reconciliation.apply(pending)
    assert [one.resource for one in await apis.list_apis(room.deployment.database)] == ["https://api.example/v1"]
    assert (await room.call("GET", f"/agents/{by_hand.id}")).status_code == 200


async def test_an_agent_gets_the_id_that_the_settings_name_and_keeps_it(room: AdminRoom, tmp_path: Path) -> None:
    def declare_agent(client_id: str, name: str = "reporting") -> Declaration:
        agent = {"id": client_id, "redirect_uris": ["https://app.example/cb"]}
        return parse_declaration({"agents": {name: agent}})

    pending = await reconciliation.plan(room.operator, declare_agent("reporting-bot"))
    first = pending[0].differences[0]
    assert (first.name, first.after) == ("id", "reporting-bot")
    await reconciliation.apply(pending)
    assert (await reconciliation.declared_agents(room.operator))["reporting"].id == "reporting-bot"
    assert await reconciliation.plan(room.operator, declare_agent("reporting-bot")) == ()
    with pytest.raises(ChangeRefused, match="can't change"):
        await reconciliation.plan(room.operator, declare_agent("another-bot"))
    with pytest.raises(ChangeRefused, match="another agent has the client ID"):
        await reconciliation.plan(room.operator, declare_agent("reporting-bot", name="second"))
    for bad in ("", "ab", "Reporting", "https://app.example/", "a b", "a" * 65):
        with pytest.raises(DeclarationRefused, match="id"):
            declare_agent(bad)


async def test_unknown_keys_and_places_are_refused_with_what_was_meant() -> None:
    for content, said in (
        ({"poeple": {}}, "poeple: there is no such key. Did you mean people?"),
        ({"people": {"grace": {"amdin": True}}}, "people.grace.amdin: there is no such key. Did you mean admin?"),
        ({"people": {"grace": {"xyz": 1}}}, "Valid ones: admin, role, disabled, identities"),
        ({"people": {"grace": {"admin": "perhaps"}}}, "people.grace.admin: "),
    ):
        with pytest.raises(DeclarationRefused) as refused:
            parse_declaration(content)
        assert said in str(refused.value)
    assert parse_declaration({"people": {"grace": {"admin": True}}}).people


async def test_nobody_who_was_disabled_or_stopped_is_let_in_again_unless_the_file_says_so(room: AdminRoom) -> None:
    def declare_grace(**facts: object) -> Declaration:
        return parse_declaration({"people": {"grace": {"role": "member", **facts}}})

    async def apply(declared: Declaration) -> bool:
        await reconciliation.apply(await reconciliation.plan(room.operator, declared))
        return (await room.person("grace")).has_agents

    assert await apply(declare_grace())
    await people.set_disabled(room.operator, await room.person("grace"), is_disabled=True)
    assert not await apply(declare_grace())
    assert not await apply(declare_grace(role="auditor"))
    assert await apply(declare_grace(disabled=False))  # the twin
    now = room.deployment.now()
    async with room.deployment.transaction() as transaction:
        grace = await room.person("grace")
        await users.stop_agents(transaction, grace.id, by="https://id.example", at=now, now=now)
    for declared in (declare_grace(role="auditor"), declare_grace(role="member", disabled=False)):
        assert not await apply(declared)
    assert not await apply(declare_grace(disabled=True))
    assert await apply(declare_grace(disabled=False))


async def test_identities_in_any_order_are_linked_once(room: AdminRoom) -> None:
    one, other = ({"issuer": f"https://{name}.example", "subject": "1"} for name in ("z", "a"))

    def declare_grace(*identities: dict[str, str]) -> Declaration:
        return parse_declaration({"people": {"grace": {"identities": list(identities)}}})

    for declared in (declare_grace(one, other), declare_grace(other, one), declare_grace(one, one)):
        await reconciliation.apply(await reconciliation.plan(room.operator, declared))
        assert await reconciliation.plan(room.operator, declared) == ()
    (change,) = await reconciliation.plan(room.operator, declare_grace(one, other | {"subject": "2"}))  # the twin
    assert [found.name for found in change.differences] == ["identities"]


async def test_an_identity_of_someone_else_is_refused_before_anything_is_done(room: AdminRoom) -> None:
    def declare(**identities: str) -> Declaration:
        linked = {name: [{"issuer": "https://id.example", "subject": one}] for name, one in identities.items()}
        return parse_declaration({"people": {name: {"identities": one} for name, one in linked.items()}})

    await reconciliation.apply(await reconciliation.plan(room.operator, declare(grace="42")))
    assert await reconciliation.plan(room.operator, declare(grace="42", Grace="42")) == (), "the same person"
    for declared in (declare(heidi="42"), declare(heidi="42", grace="42"), declare(heidi="43", ivan="43")):
        with pytest.raises(ChangeRefused, match="belongs to someone else") as refused:
            await reconciliation.plan(room.operator, declared)
        assert refused.value.reason == "person_refused"
    assert await users.find_user(room.deployment.database, "heidi") is None
    assert len(await reconciliation.plan(room.operator, declare(heidi="43", ivan="44"))) == 2


async def test_an_identity_that_the_file_no_longer_names_is_removed_and_what_it_opened_ends(room: AdminRoom) -> None:
    def declare(*subjects: str, **more: object) -> Declaration:
        linked = [{"issuer": "https://id.example", "subject": one} for one in subjects]
        return parse_declaration({"people": {"grace": {"identities": linked, **more}}})

    async def apply(declared: Declaration) -> list[tuple[object, object]]:
        pending = await reconciliation.plan(room.operator, declared)
        await reconciliation.apply(pending)
        assert await reconciliation.plan(room.operator, declared) == ()
        assert {one.name for change in pending for one in change.differences} <= {"identities"}
        return [(one.before, one.after) for change in pending for one in change.differences]

    async def subjects() -> set[str]:
        return {one.subject for one in await users.list_identities(room.deployment.database, grace.id)}

    grace = await room.room.vault.add_user("grace")
    await apply(declare("41", "42"))
    browser = await room.room.signed_in("grace")
    assert await apply(parse_declaration({"people": {"grace": {}}})) == [], "a list that is missing isn't managed"
    assert (await browser.open("/account")).status_code == 200
    assert await subjects() == {"41", "42"}
    ((before, after),) = await apply(declare("43", "42"))
    assert before == ["42 at https://id.example", "41 at https://id.example"]
    assert after == ["43 at https://id.example", "42 at https://id.example"]
    assert await subjects() == {"42", "43"}
    assert (await browser.http.get("/account")).status_code == 303, "signed out"
    events = [one for one in await read_events(room.deployment, user_id=grace.id) if one.kind == "user.unlinked"]
    assert [one.details["issuer"] for one in events] == ["https://id.example"]
    pending = await reconciliation.plan(room.operator, declare())
    async with room.deployment.transaction() as transaction:  # a sign-in links another one, which nobody saw in a plan
        which = {"issuer": "https://id.example", "subject": "44", "user_id": grace.id}
        await users.link_identity(transaction, **which, now=room.deployment.now())
        which = {"issuer": OWNER_ISSUER, "subject": "owner", "user_id": grace.id}
        await users.link_identity(transaction, **which, now=room.deployment.now())
    await reconciliation.apply(pending)
    assert await subjects() == {"44", "owner"}
    assert await apply(declare()) == [(["44 at https://id.example"], [])]
    assert await subjects() == {"owner"}, "the mark of the owner of the data directory isn't an identity to declare"


async def test_an_identity_that_is_gone_already_is_not_removed_again(room: AdminRoom) -> None:
    grace = await room.room.vault.add_user("grace")
    which = {"issuer": "https://id.example", "subject": "42"}
    assert not await people.unlink_identity(room.operator, grace, **which)
    await people.link_identity(room.operator, grace, **which)
    assert not await people.unlink_identity(room.operator, await room.person("alice"), **which), "another person's"
    browser = await room.room.signed_in("grace")
    assert await people.unlink_identity(room.operator, grace, **which)
    assert not await people.unlink_identity(room.operator, grace, **which)
    assert (await browser.http.get("/account")).status_code == 303
    assert [one.kind for one in await read_events(room.deployment, user_id=grace.id)].count("user.unlinked") == 1


async def test_what_cannot_be_is_refused_before_anything_is_done(room: AdminRoom) -> None:
    for content in (
        {"agents": {"bad": {}}},
        {"apis": {"https://api.example/": {"clients": ["nobody"]}}},
        {"providers": {"slack": {"client_id": "another"}}},  # already in the settings
        {"providers": {"nothing": {"client_id": "x"}}},
    ):
        with pytest.raises(ChangeRefused):
            await reconciliation.plan(room.operator, parse_declaration(content))


GROUPS = """
[people.alice]
admin = true

[people.grace]
role = "auditor"

[groups.Support]
members = ["GRACE", "alice"]

[groups.Empty]
"""


async def _in(room: AdminRoom, name: str) -> list[str]:
    group = await groups.find_group(room.deployment.database, name)
    assert group is not None
    now = room.deployment.now()
    return sorted(one.name for one in await groups.members(room.deployment.database, group.id, now=now))


async def test_groups_and_roles_are_planned_applied_and_then_have_nothing_to_change(room: AdminRoom) -> None:
    wanted = parse_declaration(tomllib.loads(GROUPS))
    changes = await reconciliation.plan(room.operator, wanted)
    assert _change_lines(changes) == ["create person grace", "create group Support", "create group Empty"]
    assert {one.name: one.after for one in changes[0].differences}["role"] == "auditor"
    assert [(one.name, one.after) for one in changes[1].differences] == [("members", ["alice", "grace"])]
    assert await groups.find_group(room.deployment.database, "support") is None, "a plan changes nothing"
    await reconciliation.apply(changes)
    assert await _in(room, "support") == ["alice", "grace"]
    grace = await users.find_user(room.deployment.database, "grace")
    assert grace is not None
    assert grace.role is Role.AUDITOR
    assert await reconciliation.plan(room.operator, wanted) == ()
    fewer = parse_declaration({"people": {"grace": {"role": "member"}}, "groups": {"SUPPORT": {"members": ["alice"]}}})
    changes = await reconciliation.plan(room.operator, fewer)
    assert _change_lines(changes) == ["update person grace", "update group SUPPORT"]
    assert [(one.name, one.before, one.after) for one in changes[1].differences] == [
        ("members", ["alice", "grace"], ["alice"])
    ]
    await reconciliation.apply(changes)
    assert await _in(room, "support") == ["alice"]
    pruned = await reconciliation.plan(room.operator, fewer.model_copy(update={"people": None}), prunes=True)
    assert _change_lines(pruned) == ["remove group Empty"]
    await reconciliation.apply(pruned)
    assert await groups.find_group(room.deployment.database, "Empty") is None


async def test_whom_a_directory_or_a_sign_in_put_into_a_group_a_declaration_leaves_there(room: AdminRoom) -> None:
    database, now = room.deployment.database, room.deployment.now()
    alice, bob = await room.room.user("alice"), await room.room.user("bob")
    async with database.transaction() as transaction:
        for name, source in (("By sign-in", "openid:company"), ("Own", "local")):
            made = await groups.create_group(transaction, name, now=now)
            await groups.add_member(transaction, made.id, bob.id, source=source, now=now)
        await groups.create_group(transaction, "By directory", is_provisioned=True, now=now)
    wanted = parse_declaration({"groups": {"By sign-in": {"members": [alice.name]}}})
    changes = await reconciliation.plan(room.operator, wanted, prunes=True)
    assert _change_lines(changes) == ["update group By sign-in", "remove group Own"]
    await reconciliation.apply(changes)
    assert await _in(room, "By sign-in") == ["alice", "bob"]
    emptied = parse_declaration({"groups": {"By sign-in": {}}})
    await reconciliation.apply(await reconciliation.plan(room.operator, emptied, prunes=True))
    assert await _in(room, "By sign-in") == ["bob"]
    assert await groups.find_group(database, "By directory") is not None


async def test_unknown_members_and_two_roles_are_refused(room: AdminRoom) -> None:
    with pytest.raises(ChangeRefused, match="there is no person nobody"):
        await reconciliation.plan(room.operator, parse_declaration({"groups": {"Support": {"members": ["nobody"]}}}))
    both = {"people": {"nobody": {}}, "groups": {"Support": {"members": ["nobody"]}}}
    assert len(await reconciliation.plan(room.operator, parse_declaration(both))) == 2
    for content, word in (
        ({"people": {"grace": {"role": "auditor", "admin": True}}}, "both set"),
        ({"people": {"grace": {"role": "boss"}}}, "role"),
        ({"groups": {"Support": {"membres": []}}}, "members"),
    ):
        with pytest.raises(DeclarationRefused, match=word):
            parse_declaration(content)


async def test_a_plan_refuses_what_applying_it_could_not_finish(room: AdminRoom) -> None:
    await room.room.user("bob")
    both = {"people": {"alice": {"admin": True}}, "groups": {"Support": {"members": ["alice", "BOB"]}}}
    for content, word in (
        ({"groups": {"a\nb": {}}}, "visible characters"),
        ({"groups": {"x" * 201: {}}}, "visible characters"),
        ({"groups": {"Team": {}, " TEAM": {}}}, "name the same group"),
        (both, "BOB is removed"),
    ):
        with pytest.raises(ChangeRefused, match=word):
            await reconciliation.plan(room.operator, parse_declaration(content), prunes=True)
    for named in ({**both, "people": {"alice": {"admin": True}, "bob": {}}}, {"groups": both["groups"]}):
        assert "create group Support" in _change_lines(
            await reconciliation.plan(room.operator, parse_declaration(named), prunes=True)
        )
    assert "create group Support" in _change_lines(await reconciliation.plan(room.operator, parse_declaration(both)))
    fits = parse_declaration({"groups": {"x" * 200: {}, "Team": {}}})
    assert len(await reconciliation.plan(room.operator, fits, prunes=True)) == 2


async def test_a_member_who_is_named_twice_is_one_and_a_group_is_made_whole_or_not_at_all(room: AdminRoom) -> None:
    await room.room.user("bob")
    wanted = parse_declaration({"groups": {"Support": {"members": ["bob", "BOB", "alice", "bob"]}}})
    changes = await reconciliation.plan(room.operator, wanted)
    assert changes[0].differences[0].after == ["alice", "bob"]
    await reconciliation.apply(changes)
    assert await reconciliation.plan(room.operator, wanted) == ()
    carol = await room.room.user("carol")
    larger = parse_declaration({"groups": {"New": {"members": ["alice", "carol"]}, "Support": {"members": ["carol"]}}})
    changes = await reconciliation.plan(room.operator, larger)
    async with room.deployment.transaction() as transaction:
        await users.delete_user(transaction, carol.id, now=room.deployment.now())
    for change in changes:
        with pytest.raises(ChangeRefused, match="no person carol"):
            await reconciliation.apply((change,))
    assert await groups.find_group(room.deployment.database, "New") is None
    assert await _in(room, "Support") == ["alice", "bob"]


@pytest.mark.parametrize(("source", "pruned"), [(MEMBERSHIP, ["remove group Own"]), ("openid:company", [])])
async def test_a_member_by_an_access_request_keeps_no_group(room: AdminRoom, source: str, pruned: list[str]) -> None:
    alice, now = await room.room.user("alice"), room.deployment.now()
    async with room.deployment.transaction() as transaction:
        made = await groups.create_group(transaction, "Own", now=now)
        await groups.add_member(transaction, made.id, alice.id, source=source, now=now)
    changes = await reconciliation.plan(room.operator, parse_declaration({"groups": {}}), prunes=True)
    assert _change_lines(changes) == pruned
    await reconciliation.apply(changes)
    assert (await groups.find_group(room.deployment.database, "Own") is None) == bool(pruned)


@pytest.mark.parametrize("is_filled", [True, False])
async def test_a_group_that_a_sign_in_filled_since_the_plan_is_not_pruned(room: AdminRoom, *, is_filled: bool) -> None:
    alice, now = await room.room.user("alice"), room.deployment.now()
    async with room.deployment.transaction() as transaction:
        made = await groups.create_group(transaction, "Own", now=now)
    changes = await reconciliation.plan(room.operator, parse_declaration({"groups": {}}), prunes=True)
    assert _change_lines(changes) == ["remove group Own"]
    async with room.deployment.transaction() as transaction:
        source = "openid:company" if is_filled else "local"
        await groups.add_member(transaction, made.id, alice.id, source=source, now=now)
    if is_filled:
        with pytest.raises(ChangeRefused, match="in the meantime"):
            await reconciliation.apply(changes)
    else:
        await reconciliation.apply(changes)
    assert (await groups.find_group(room.deployment.database, "Own") is not None) == is_filled


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMINISTRATOR])
async def test_nobody_is_made_whose_role_the_actor_can_not_give(room: AdminRoom, role: Role) -> None:
    admin = await room.room.user("admin")
    await people.set_role(room.operator, admin, Role.ADMINISTRATOR)
    actor = Actor(room.deployment, admin, "admin_api")
    changes = await reconciliation.plan(actor, parse_declaration({"people": {"grace": {"role": role.value}}}))
    if role is Role.OWNER:
        with pytest.raises(ChangeRefused, match="Only an owner"):
            await reconciliation.apply(changes)
        assert await users.find_user(room.deployment.database, "grace") is None
        return
    (made,) = await reconciliation.apply(changes)
    assert "/sign-in/link?ticket=" in (made.secret or "")
    grace = await users.find_user(room.deployment.database, "grace")
    assert grace is not None
    assert grace.role is role


async def test_the_admin_api_applies_the_same(room: AdminRoom) -> None:
    agent = {"redirect_uris": ["https://b.example/"]}
    named = {"alice": {"admin": True}, "henry": {"role": "member"}}
    wanted = {"people": named, "groups": {"Team": {"members": ["henry"]}}, "agents": {"bot": agent}}
    planned = (await room.call("POST", "/apply?plan=true", json=wanted)).json()
    assert [(one["change"], one["kind"], one["name"]) for one in planned["changes"]] == [
        ("create", "person", "henry"),
        ("create", "group", "Team"),
        ("create", "agent", "bot"),
    ]
    assert planned["applied"] is False
    made = (await room.call("POST", "/apply", json=wanted)).json()
    assert "/sign-in/link?ticket=" in made["changes"][0]["secret"]
    again = (await room.call("POST", "/apply", json=wanted)).json()
    assert again == {"applied": True, "changes": []}
    problem(await room.call("POST", "/apply", json={"poeple": {}}), 400, "invalid_request")
    by_file = {"providers": {"dropbox": {"client_id": "x", "client_secret_file": "/etc/hostname"}}}
    refused = problem(await room.call("POST", "/apply", json=by_file), 400, "invalid_request")
    assert "/etc" not in str(refused)
    rules = {**wanted, "policies": {"mail": {"rules": ""}}}  # files on the host: only for the command
    assert "policies" in str(problem(await room.call("POST", "/apply", json=rules), 400, "invalid_request"))
    reader = await room.token_with("admin:read")
    problem(await room.call("POST", "/apply", json=wanted, token=reader), 403, "insufficient_scope")
    for last in ({"admin": False}, {"role": "auditor"}):
        refused = problem(await room.call("POST", "/apply", json={"people": {"alice": last}}), 409, "last_admin")
        assert refused["changes"] == []


async def test_how_an_agent_asks_people_is_declared_and_changed(room: AdminRoom) -> None:
    def declare_agent(**asking: object) -> Declaration:
        agent = {"confidential": True, "auth0": True, "ciba": asking}
        return parse_declaration({"agents": {"shop": agent}})

    await reconciliation.apply(await reconciliation.plan(room.operator, declare_agent(details_types=["payment"])))
    assert await reconciliation.plan(room.operator, declare_agent(details_types=["payment"])) == ()
    told = declare_agent(notify="https://shop.example/told", push=True, user_code=True)
    pending = await reconciliation.plan(room.operator, told)
    assert [one.name for one in pending[0].differences] == ["metadata"]
    await reconciliation.apply(pending)
    held = asking_of((await reconciliation.declared_agents(room.operator))["shop"])
    assert held == BackchannelSpec("https://shop.example/told", is_pushed=True, sends_user_code=True)
    with pytest.raises(ChangeRefused):
        await reconciliation.plan(room.operator, declare_agent(push=True))


def _declare_release(policies: dict[str, str], *, is_confidential: bool = True, **rest: object) -> Declaration:
    sign_in = ["https://bot.example/callback"]
    agent = {"redirect_uris": sign_in, "confidential": is_confidential, "release": policies}
    return parse_declaration({"agents": {"bot": agent}, **rest})


async def _policy(room: AdminRoom, provider: str) -> str:
    client = (await reconciliation.declared_agents(room.operator))["bot"]
    return release.policy_of(client, provider=provider, connection_id="").value


async def test_a_release_policy_by_another_name_of_the_provider_stays_when_it_is_applied_again(room: AdminRoom) -> None:
    """Otherwise, the second time stored a name that means nothing, and the agent got the provider's own token."""
    gmail = _declare_release({"gmail": "proxy"})
    for _ in range(2):
        await reconciliation.apply(await reconciliation.plan(room.operator, gmail))
        assert (await _policy(room, "google"), await _policy(room, "slack")) == ("proxy", "narrowed")
    assert await reconciliation.plan(room.operator, gmail) == ()
    await reconciliation.apply(await reconciliation.plan(room.operator, _declare_release({"gmail": "full"})))
    assert await _policy(room, "google") == "full"
    await reconciliation.apply(await reconciliation.plan(room.operator, _declare_release({})))
    assert await _policy(room, "google") == "narrowed"
    events = [one for one in await room.room.events() if one.kind == "release.changed"]
    assert [(one.details["target"], one.details["release"]) for one in events] == [
        ("google", "proxy"),
        ("google", "full"),
        ("google", "narrowed"),
    ]


async def test_a_release_policy_that_can_not_be_is_refused_before_the_agent_is_made_or_changed(room: AdminRoom) -> None:
    """Otherwise, the agent existed without the policy, and nobody ever saw its secret."""
    wrong = (
        (_declare_release({"slakc": "proxy"}), "Did you mean slack"),
        (_declare_release({"google": "full", "gmail": "proxy"}), "gmail is google"),
        (_declare_release({"slack": "full"}, is_confidential=False), "with a secret or key"),
    )
    for declared, said in wrong:
        with pytest.raises(ChangeRefused, match=said):
            await reconciliation.plan(room.operator, declared)
    assert await reconciliation.declared_agents(room.operator) == {}
    twin = _declare_release({"slack": "proxy", "google": "proxy", "gmail": "proxy", "default": "narrowed"})
    (made,) = await reconciliation.apply(await reconciliation.plan(room.operator, twin))
    assert made.secret
    for declared, said in wrong[:2]:
        with pytest.raises(ChangeRefused, match=said):
            await reconciliation.plan(room.operator, declared)
    assert await _policy(room, "slack") == "proxy"
    api = {"brokerage": {"document": "{}"}}  # added later by the same file
    await reconciliation.apply(
        await reconciliation.plan(room.operator, _declare_release({"brokerage": "proxy"}, imported_apis=api))
    )
    assert await _policy(room, "brokerage") == "proxy"


def _declare_resources(*resources: str, title: str = "Bot") -> Declaration:
    agent = {"title": title, "redirect_uris": [REDIRECT], "resources": list(resources)}
    return parse_declaration({"agents": {"bot": agent}})


async def _tokens(room: AdminRoom, client_id: str, resource: str, scope: str) -> dict[str, str]:
    answer, verifier = await room.room.vault.authorize(
        await room.room.browser(), client_id, scope=f"{scope} offline_access", resource=resource
    )
    redeemed = await room.room.vault.redeem(client_id, answer["code"], verifier)
    assert redeemed.status_code == 200, redeemed.text
    return redeemed.json()


async def test_what_a_declaration_takes_from_an_agent_ends_with_its_tokens_and_what_it_gives_can_be_used(
    room: AdminRoom,
) -> None:
    admin, orders = room.resource, "https://orders.example/"

    async def apply(declared: Declaration) -> str:
        await reconciliation.apply(await reconciliation.plan(room.operator, declared))
        return (await reconciliation.declared_agents(room.operator))["bot"].id

    async def works(tokens: dict[str, str]) -> tuple[int, int]:
        called = await room.call("GET", "/people", token=tokens["access_token"])
        form = {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": tokens["refresh_token"]}
        refreshed = await room.http.post("/token", data=form)
        tokens.update(refreshed.json())
        return called.status_code, refreshed.status_code

    client_id = await apply(_declare_resources(admin))
    held, others = await _tokens(room, client_id, admin, "admin:read"), await room.signed_in_token("admin:read")
    await apply(_declare_resources(admin, orders, title="Renamed"))  # the twin: nothing was taken
    assert await works(held) == (200, 200)
    await apply(_declare_resources(orders))
    assert await works(held) == (401, 400)
    assert (await room.call("GET", "/people", token=others)).status_code == 200
    own = await _tokens(room, client_id, orders, "tools")
    ended = [one.details["grants"] for one in await room.room.events() if one.kind == "client.changed"]
    assert ended == [0, 1]
    await apply(_declare_resources())
    assert (await works(own))[1] == 400
    at_mcp = await _tokens(room, client_id, f"{room.room.url}/", "tools")
    await apply(_declare_resources(f"{room.room.url}/mcp"))  # the same server
    assert (await works(at_mcp))[1] == 200


async def test_an_agent_for_nobody_is_declared_changed_and_registered(room: AdminRoom) -> None:
    api = "https://reports.example/"

    async def apply(**limit: list[str]) -> str | None:
        agent = {"confidential": True, "resources": [api], "client_credentials": limit}
        wanted = parse_declaration({"agents": {"nightly": agent}, "apis": {api: {"scopes": ["a", "b"]}}})
        made = await reconciliation.apply(await reconciliation.plan(room.operator, wanted))
        assert await reconciliation.plan(room.operator, wanted) == ()
        return made[0].secret

    secret = await apply()
    client = (await reconciliation.declared_agents(room.operator))["nightly"]
    assert (await room.request_token(RegisteredAgent(client, secret))).json()["scope"] == "a b"
    await apply(scopes=["a"])
    assert (await room.request_token(RegisteredAgent(client, secret))).json()["scope"] == "a"
    shown = (await room.call("GET", f"/agents/{client.id}")).json()
    assert (shown["client_credentials"], shown["service_account"]) == ({"scopes": ["a"]}, False)
    body = {"name": "Bot", "confidential": True, "client_credentials": {}}
    problem(await room.call("POST", "/agents", json=body), 400, "agent_refused")
    made = await room.call("POST", "/agents", json=body | {"resources": [api]})
    assert made.status_code == 201, made.text
    assert made.json()["agent"]["client_credentials"] == {"scopes": []}
