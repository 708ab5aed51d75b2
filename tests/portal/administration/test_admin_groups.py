"""Groups and directories as an administrator manages them, in the browser, at the Admin API, and with commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from server.administration import group_accounts, provisioning
from server.administration.actor import Actor, ChangeRefused
from server.administration.groups import create as created
from tests.support.commands import run
from tests.support.person import forms_of
from tests.support.rooms.admin_room import AdminRoom, problem
from vault import groups
from vault.delegations import WRITES

GROUPS = "/administration/groups"


async def test_a_group_is_made_filled_and_deleted_in_the_browser(admin: AdminRoom) -> None:
    bob = await admin.room.user("bob")
    browser = await admin.room.signed_in("alice")
    page = await browser.open(GROUPS)
    refused = await browser.submit(page, {"name": "\u202e"}, form=GROUPS)
    assert refused.status_code == 400
    made = await browser.submit(page, {"name": "On <b>call</b>"}, form=GROUPS)
    assert "On &lt;b&gt;call" in made.text
    twice = await browser.submit(page, {"name": "ON <b>CALL</b>"}, form=GROUPS)
    assert twice.status_code == 400
    assert "already exists" in twice.text
    nobody = await browser.submit(made, {"name": "nobody"}, form="/add")
    assert nobody.status_code == 400
    added = await browser.submit(made, {"name": "BOB"}, form="/add")
    assert f"/administration/people/{bob.id}" in added.text
    removed = await browser.submit(added, form="/remove")
    assert f"/administration/people/{bob.id}" not in removed.text
    again = await browser.submit(added, form="/remove")  # from a page that is out of date
    assert again.status_code == 409
    gone = await browser.submit(removed, form="/delete")
    assert gone.url.path == GROUPS
    assert (await browser.submit(removed, form="/delete")).status_code == 404


async def test_a_directorys_token_is_shown_once_and_ends(admin: AdminRoom) -> None:
    browser = await admin.room.signed_in("alice")
    page = await browser.open(GROUPS)
    wrong = await browser.submit(page, {"name": "a b"}, form="/directory")
    assert wrong.status_code == 400
    made = await browser.submit(page, {"name": "okta"}, form="/directory")
    token = made.text.partition('data-copy="tvs_')[2].partition('"')[0]
    headers = {"Authorization": f"Bearer tvs_{token}"}
    assert (await admin.http.get("/scim/v2/Users", headers=headers)).status_code == 200
    assert token not in (await browser.open(GROUPS)).text
    assert token not in (await browser.open("/administration/activity")).text
    await browser.submit(await browser.open(GROUPS), form="/directory/end")
    assert (await admin.http.get("/scim/v2/Users", headers=headers)).status_code == 401


async def test_a_directorys_group_is_changed_by_the_directory_alone(admin: AdminRoom) -> None:
    directory = Actor(admin.deployment, None, "scim", directory="okta")
    group = await provisioning.add_group(directory, "Sales", external_id=None, members=())
    await admin.room.user("bob")
    browser = await admin.room.signed_in("alice")
    page = await browser.open(f"{GROUPS}/{group.id}")
    assert not [one for one in forms_of(page.text) if one.action.endswith("/delete")]
    problem(await admin.call("DELETE", f"/groups/{group.id}"), 409, "group_managed")
    problem(await admin.call("PATCH", f"/groups/{group.id}", json={"name": "Other"}), 409, "group_managed")
    assert "bob" in (await browser.submit(page, {"name": "bob"}, form="/add")).text  # next to the directory's members
    other = await admin.call("POST", "/groups", json={"name": "Own"})
    assert (await admin.call("PATCH", f"/groups/{other.json()['id']}", json={"name": "Other"})).status_code == 200
    assert (await admin.call("DELETE", f"/groups/{other.json()['id']}")).status_code == 204


async def test_the_admin_api_has_groups_and_directories(admin: AdminRoom) -> None:
    bob = await admin.room.user("bob")
    made = (await admin.call("POST", "/groups", json={"name": "Sales"})).json()
    path = f"/groups/{made['id']}/people/{bob.id}"
    assert (await admin.call("PUT", path)).status_code == 204
    assert (await admin.call("PUT", path)).status_code == 204  # it exists already
    shown = (await admin.call("GET", f"/groups/{made['id']}")).json()
    assert [(one["name"], one["sources"]) for one in shown["people"]] == [("bob", ["local"])]
    assert (await admin.call("DELETE", path)).status_code == 204
    problem(await admin.call("DELETE", path), 409, "not_member")
    problem(await admin.call("POST", "/groups", json={"name": "SALES"}), 409, "group_name_taken")
    assert [one["name"] for one in (await admin.call("GET", "/groups")).json()["items"]] == ["Sales"]
    token = (await admin.call("POST", "/directory-tokens", json={"name": "okta"})).json()["token"]
    listed = await admin.call("GET", "/directory-tokens")
    assert token not in listed.text
    assert [one["name"] for one in listed.json()["items"]] == ["okta"]
    assert (await admin.call("DELETE", "/directory-tokens/okta")).status_code == 204
    problem(await admin.call("DELETE", "/directory-tokens/okta"), 404, "no_token")
    reader = await admin.token_with("admin:read")
    problem(await admin.call("POST", "/groups", token=reader, json={"name": "No"}), 403, "insufficient_scope")
    assert await groups.find_group(admin.deployment.database, "No") is None


async def test_an_account_is_given_to_a_group_used_and_ended(admin: AdminRoom) -> None:
    room, bob = admin.room, await admin.room.user("bob")
    browser, member = await room.signed_in("alice"), await room.signed_in("bob")
    alice, agent = await admin.person("alice"), await room.agent(name="Report bot")
    chat = frozenset({"chat:write", "channels:read"})
    own = await room.account(alice, "slack", label="Team", scopes=chat)
    made = await browser.submit(await browser.open(GROUPS), {"name": "Sales"}, form=GROUPS)
    page = await browser.submit(made, {"name": "bob"}, form="/add")
    given = await browser.submit(page, {"connection": own.id, "reads_only": "yes"}, form="/give")
    assert "Team" in given.text
    salts = await admin.deployment.database.fetch("select connection_id from keys.connection_keys")
    assert own.id not in {one["connection_id"] for one in salts}
    assert (
        "Team"
        not in (await browser.open("/connections")).text.partition('id="connect"')[0].partition('class="tiles"')[2]
    )
    assert "Accounts of your groups" in (await member.open("/connections")).text
    group = await groups.find_group(admin.deployment.database, "Sales")
    assert group is not None
    listed = (await admin.call("GET", f"/groups/{group.id}/connections")).json()["items"]
    assert [(one["account"], one["scopes"], one["given_by"]) for one in listed] == [
        ("Team", ["channels:read"], "alice")
    ]
    await room.grant(bob, agent)
    shown = await member.open(f"/agents/{agent.id}")
    assert "Team" in shown.text
    path = f"/groups/{group.id}/connections"
    problem(await admin.call("POST", path, json={"connection_id": own.id}), 409, "transition_refused")
    theirs = await room.account(bob, "slack", label="Bob", scopes=chat)
    problem(await admin.call("POST", path, json={"connection_id": theirs.id}), 404, "no_connection")
    again = await room.account(alice, "slack", label="Team", scopes=chat)
    answer = await admin.call("POST", path, json={"connection_id": again.id})
    assert answer.json()["id"] == listed[0]["id"]
    gone = await browser.submit(await browser.open(f"{GROUPS}/{group.id}"), form="/disconnect")
    assert gone.status_code == 200, gone.text
    assert "for a group" in (await browser.open("/activity")).text
    problem(await admin.call("DELETE", f"{path}/{listed[0]['id']}"), 404, "no_connection")
    assert "Team" not in (await member.open("/connections")).text


async def test_a_rule_names_what_the_accounts_scopes_include(admin: AdminRoom) -> None:
    alice = await admin.person("alice")
    operator = Actor(admin.deployment, None, "command_line")
    group = await created(operator, "Sales")
    policy = admin.deployment.vault.policies["google"]
    whole = "https://www.googleapis.com/auth/calendar"
    part = whole + ".readonly"
    assert part in policy.covers[whole]
    own = await admin.room.account(alice, "google", label="A", scopes=frozenset({whole}))
    given = await group_accounts.give(operator, alice, own.id, group, reads_only=True, asks_writes=False)
    shared = await group_accounts.shared_with_id(operator, group, given.id)
    assert whole not in shared.for_members.scopes
    assert part in shared.for_members.scopes
    again = await admin.room.account(alice, "google", label="A", scopes=frozenset({whole}))
    await group_accounts.give(operator, alice, again.id, group, reads_only=False, asks_writes=False)
    shared = await group_accounts.shared_with_id(operator, group, given.id)
    assert (shared.for_members.scopes, part in shared.rule.scopes) == ({whole}, True)


async def test_the_rule_of_an_account_is_changed_on_the_page_by_the_api_and_by_a_command(admin: AdminRoom) -> None:
    browser, alice = await admin.room.signed_in("alice"), await admin.person("alice")
    operator = Actor(admin.deployment, None, "command_line")
    group = await created(operator, "Sales")
    chat = frozenset({"chat:write", "channels:read"})
    own = await admin.room.account(alice, "slack", label="Team", scopes=chat)
    given = await group_accounts.give(operator, alice, own.id, group, reads_only=False, asks_writes=False)
    page = await browser.open(f"{GROUPS}/{group.id}")
    changed = await browser.submit(page, {"reads_only": "yes", "asks_writes": "yes"}, form="/rule")
    assert "The rule of Team for Sales has changed" in changed.text
    shared = await group_accounts.shared_with_id(operator, group, given.id)
    assert (shared.for_members.scopes, shared.rule.ask) == ({"channels:read"}, {WRITES})
    assert "You changed the rule of" in (await browser.open("/activity")).text
    path = f"/groups/{group.id}/connections/{given.id}"
    answer = (await admin.call("PUT", path, json={"asks_writes": True})).json()
    assert (answer["scopes"], answer["ask"]) == (sorted(chat), [WRITES])
    problem(await admin.call("PUT", f"{path}x", json={}), 404, "no_connection")
    reader = await admin.token_with("admin:read")
    problem(await admin.call("PUT", path, token=reader, json={}), 403, "insufficient_scope")
    (admin.deployment.data / "config.toml").write_text("", encoding="utf-8")
    reading = frozenset({"channels:read"})
    for option, expected in (  # each change leaves the others as they are
        ("--reads-only", (reading, {WRITES})),
        ("--no-ask-writes", (reading, frozenset())),
        ("--ask-writes", (reading, {WRITES})),
        ("--no-reads-only", (chat, {WRITES})),
    ):
        ran = await run(Place(admin.deployment.data), "groups", "rule", "Sales", given.id, option)
        assert f"can use: {' '.join(sorted(expected[0]))}" in ran.output
        shared = await group_accounts.shared_with_id(operator, group, given.id)
        assert (shared.for_members.scopes, shared.rule.ask) == expected
    ran = await run(Place(admin.deployment.data), "groups", "rule", "Sales", given.id)
    assert ran.exit_code != 0
    assert "choose what to change" in ran.output


@dataclass(frozen=True)
class Place:
    """Where commands find the vault."""

    data: Path


async def test_a_rule_that_leaves_nothing_is_refused(admin: AdminRoom) -> None:
    operator = Actor(admin.deployment, None, "command_line")
    alice, group = await admin.person("alice"), await created(operator, "Sales")
    own = await admin.room.account(alice, "slack", label="A", scopes=frozenset({"chat:write"}))
    given = await group_accounts.give(operator, alice, own.id, group, reads_only=False, asks_writes=False)
    with pytest.raises(ChangeRefused) as refused:
        await group_accounts.change_rule(operator, group, given.id, reads_only=True, asks_writes=False)
    assert refused.value.reason == "nothing_to_read"
    assert await group_accounts.change_rule(operator, group, given.id, reads_only=False, asks_writes=True)


async def test_an_account_that_only_writes_is_not_given_for_reading(admin: AdminRoom) -> None:
    alice = await admin.person("alice")
    operator = Actor(admin.deployment, None, "command_line")
    group = await created(operator, "Sales")
    own = await admin.room.account(alice, "slack", label="A", scopes=frozenset({"chat:write"}))
    with pytest.raises(ChangeRefused) as refused:
        await group_accounts.give(operator, alice, own.id, group, reads_only=True, asks_writes=False)
    assert refused.value.reason == "nothing_to_read"
    assert await group_accounts.give(operator, alice, own.id, group, reads_only=False, asks_writes=False)
