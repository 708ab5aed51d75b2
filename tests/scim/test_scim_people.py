"""People of a company's directory: created, changed, disabled, found; other people aren't affected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest

from server.administration import group_accounts, people, provisioning
from server.administration import groups as admin_groups
from server.administration.actor import ChangeRefused
from tests.support.harness import PASSWORD
from tests.support.rooms.scim_room import GROUP, USER, ScimRoom, refusal, running_scim_room
from vault import directory, groups, users
from vault.keys import passwords
from vault.records import Role, User


@pytest.fixture(scope="module")
async def scim(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ScimRoom]:
    async with running_scim_room(tmp_path_factory.mktemp("scim")) as opened:
        yield opened


async def person(scim: ScimRoom, user_id: object) -> User:
    found = await users.get_user(scim.deployment.database, str(user_id))
    assert found is not None
    return found


async def test_a_person_is_made_changed_and_found(scim: ScimRoom) -> None:
    made = await scim.add_user(
        "Ada@company.example",
        externalId="00u1",
        name={"givenName": "Ada", "familyName": "L", "honorificPrefix": "Dr"},
        emails=[{"value": "ada@company.example", "primary": True}],
        title="unknown here",
    )
    assert made["active"] is True
    assert made["name"] == {"givenName": "Ada", "familyName": "L"}
    assert "title" not in made
    path = f"/Users/{made['id']}"
    assert made["meta"]["location"] == f"{scim.room.url}/scim/v2{path}"
    for wanted in ('userName eq "ada@COMPANY.example"', 'externalId eq "00u1"', f'id eq "{made["id"]}"'):
        found = (await scim.call("GET", f"/Users?filter={wanted}")).json()
        assert (found["totalResults"], found["Resources"][0]["id"]) == (1, made["id"]), wanted
    found = (await scim.call("GET", '/Users?filter=name.familyName eq "l" and active eq true')).json()
    assert [one["id"] for one in found["Resources"]] == [made["id"]]
    renamed = await scim.patch(path, {"op": "Replace", "path": "userName", "value": "ada.l@company.example"})
    assert renamed.status_code == 200, renamed.text
    assert (await person(scim, made["id"])).name == "ada.l@company.example"
    replaced = await scim.call("PUT", path, {"schemas": [USER], "userName": "ada.l@company.example"})
    assert "externalId" not in replaced.json()
    assert replaced.json()["active"] is True


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "active", "value": False},
        {"op": "Replace", "value": {"active": False}},  # Okta
        {"op": "Replace", "path": "active", "value": "False"},  # Entra
    ],
)
async def test_a_disabled_persons_agents_stop_at_the_next_call(scim: ScimRoom, operation: dict[str, object]) -> None:
    name = f"leaver-{operation}"
    made = await scim.add_user(name)
    hashed = await passwords.hash_password(PASSWORD)
    async with scim.deployment.transaction() as transaction:
        await users.set_password(transaction, str(made["id"]), password_hash=hashed, now=scim.deployment.now())
    agent = await scim.room.vault.agent(await scim.room.browser(), name=name, scope="openid tools")
    headers = {"Authorization": f"Bearer {agent.access_token}"}

    async def call() -> int:
        return (await scim.http.get("/userinfo", headers=headers)).status_code

    assert await call() == 200
    answer = await scim.patch(f"/Users/{made['id']}", operation)
    assert answer.json()["active"] is False, answer.text
    assert await call() == 401
    silent = await scim.call("PUT", f"/Users/{made['id']}", {"schemas": [USER], "userName": name})
    assert silent.json()["active"] is False  # leaving `active` out enables nobody
    again = await scim.patch(f"/Users/{made['id']}", {"op": "replace", "path": "active", "value": True})
    assert again.json()["active"] is True
    assert await call() == 401  # what ended before stays ended


async def test_people_whom_the_directory_did_not_make_are_out_of_its_reach(scim: ScimRoom) -> None:
    bob = await scim.room.vault.add_user("bob")
    detail = refusal(await scim.call("POST", "/Users", {"schemas": [USER], "userName": "BOB"}), 409, "uniqueness")
    assert "scim adopt" in detail
    assert (await scim.call("GET", '/Users?filter=userName eq "bob"')).json()["totalResults"] == 0
    path = f"/Users/{bob.id}"
    off = {"op": "replace", "path": "active", "value": False}
    for answer in (await scim.call("GET", path), await scim.patch(path, off), await scim.call("DELETE", path)):
        refusal(answer, 404)
    group = {"schemas": [], "displayName": "Bobs", "members": [{"value": bob.id}]}
    refusal(
        await scim.call("POST", "/Groups", group | {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"]}),
        400,
        "invalidValue",
    )
    await provisioning.take_over(scim.operator, bob, external_id="00ubob")
    with pytest.raises(ChangeRefused):
        await provisioning.take_over(scim.operator, bob, external_id="00ubob")
    assert (await scim.call("GET", '/Users?filter=externalId eq "00ubob"')).json()["totalResults"] == 1
    assert (await scim.patch(path, off)).json()["active"] is False


async def test_a_directory_never_ends_the_last_admin(scim: ScimRoom) -> None:
    alice = await scim.room.user("alice")
    await provisioning.take_over(scim.operator, alice, external_id=None)
    path, off = f"/Users/{alice.id}", {"op": "replace", "path": "active", "value": False}
    refusal(await scim.patch(path, off), 403)  # she is an owner
    await people.set_role(scim.operator, alice, Role.ADMINISTRATOR)
    refusal(await scim.patch(path, off), 409)
    refusal(await scim.call("DELETE", path), 409)
    carol = await scim.room.vault.add_user("carol", is_admin=True)
    assert (await scim.patch(path, off)).json()["active"] is False
    await people.set_disabled(scim.operator, await person(scim, alice.id), is_disabled=False)
    await people.set_role(scim.operator, alice, Role.OWNER)
    await people.set_admin(scim.operator, carol, is_admin=False)


@pytest.mark.parametrize("path", ["externalId", "userName"])
async def test_a_directory_changes_nothing_by_which_an_owner_signs_in(scim: ScimRoom, path: str) -> None:
    dora = await scim.room.vault.add_user(f"dora {path}", is_admin=True)
    await people.set_role(scim.operator, dora, Role.OWNER)
    taken = await provisioning.take_over(scim.operator, dora, external_id="dora")
    where, change = f"/Users/{dora.id}", {"op": "replace", "path": path, "value": f"other {path}"}
    refusal(await scim.patch(where, change), 403)
    assert await directory.get_person(scim.deployment.database, dora.id) == taken
    await people.set_disabled(scim.operator, dora, is_disabled=True)
    on = {"op": "replace", "path": "active", "value": True}
    refusal(await scim.patch(where, on), 403)
    await people.set_role(scim.operator, dora, Role.MEMBER)
    assert (await scim.patch(where, change)).json()[path] == f"other {path}"
    refusal(await scim.patch(where, on), 409)


@pytest.mark.parametrize("is_by_admin", [True, False])
async def test_a_directory_enables_only_whom_it_disabled_itself(scim: ScimRoom, *, is_by_admin: bool) -> None:
    """If an administrator disabled someone, that counts, even if the directory had done so before."""
    made = await scim.add_user(f"eve {is_by_admin}")
    path, eve = f"/Users/{made['id']}", await person(scim, str(made["id"]))
    off, on = ({"op": "replace", "path": "active", "value": value} for value in (False, True))
    assert (await scim.patch(path, off)).json()["active"] is False
    if is_by_admin:
        await people.set_disabled(scim.operator, eve, is_disabled=True)
        refusal(await scim.patch(path, on), 409)
        whole = {"schemas": [USER], "userName": made["userName"], "active": True}
        refusal(await scim.call("PUT", path, whole), 409)
        await people.set_disabled(scim.operator, eve, is_disabled=False)
        await scim.patch(path, off)
    assert (await scim.patch(path, on)).json()["active"] is True


async def test_a_patch_has_a_bounded_number_of_operations(scim: ScimRoom) -> None:
    """Each operation goes through all values of its attribute: thousands would delay everyone."""
    user, group = await scim.add_user("patched"), await scim.add_group("Patched")
    one = {"op": "replace", "path": "displayName", "value": "P"}
    for where in (f"/Users/{user['id']}", f"/Groups/{group['id']}"):
        refusal(await scim.patch(where, *[one] * 101), 413)
        assert (await scim.patch(where, *[one] * 100)).status_code == 200
    many = {"op": "add", "value": {"members": [{"value": f"x{number}"} for number in range(2001)]}}
    refusal(await scim.patch(f"/Groups/{group['id']}", *[one] * 99, many), 413)
    refusal(await scim.patch(f"/Groups/{group['id']}", one, many), 400, "invalidValue")  # no one has these IDs


async def test_a_person_has_a_bounded_number_of_values(scim: ScimRoom) -> None:
    emails = [{"value": f"a{number}@company.example"} for number in range(20)]
    for sent in ({"emails": [*emails, emails[0]]}, {"externalId": "x" * 1025}, {"displayName": "x" * 20_000}):
        content = {"schemas": [USER], "userName": "bounded", **sent}
        refusal(await scim.call("POST", "/Users", content), 400, "invalidValue")
    assert (await scim.add_user("bounded", emails=emails, externalId="x" * 1024))["userName"] == "bounded"


async def test_a_group_that_a_directory_took_meanwhile_is_not_an_admins_any_more(scim: ScimRoom) -> None:
    """No matter for which page it was read."""
    group = await admin_groups.create(scim.operator, "Taken meanwhile")
    await scim.add_group("Taken meanwhile")
    for change in (
        admin_groups.rename(scim.operator, group, "Ours"),
        admin_groups.delete(scim.operator, group),
    ):
        with pytest.raises(ChangeRefused) as refused:
            await change
        assert refused.value.reason == "group_managed"
    plain = await admin_groups.create(scim.operator, "Not taken")
    assert (await admin_groups.rename(scim.operator, plain, "Ours")).name == "Ours"


async def test_only_a_change_of_active_enables_or_lets_agents_go_on(scim: ScimRoom) -> None:
    made = await scim.add_user("stopped")
    path, user_id = f"/Users/{made['id']}", str(made["id"])
    async with scim.deployment.transaction() as transaction:
        now = scim.deployment.now()
        await users.stop_agents(transaction, user_id, by="https://idp.example", at=now, now=now)
    same = {"op": "replace", "value": {"displayName": "S", "active": True}}
    assert (await scim.patch(path, same)).json()["active"] is True
    whole = {"schemas": [USER], "userName": "stopped", "active": True}
    assert (await scim.call("PUT", path, whole)).status_code == 200
    assert (await person(scim, user_id)).stopped_at is not None
    for active in (False, True):
        await scim.patch(path, {"op": "replace", "path": "active", "value": active})
    assert (await person(scim, user_id)).stopped_at is None


async def test_members_changed_at_once_are_all_changed(scim: ScimRoom) -> None:
    ids = [str((await scim.add_user(f"crowd-{number}"))["id"]) for number in range(6)]
    group = await scim.add_group("Crowd", *ids[:3])
    added = [{"op": "add", "path": "members", "value": [{"value": one}]} for one in ids[3:]]
    removed = [{"op": "remove", "path": f'members[value eq "{one}"]'} for one in ids[:3]]
    answers = await asyncio.gather(*(scim.patch(f"/Groups/{group['id']}", one) for one in [*added, *removed]))
    assert {one.status_code for one in answers} == {200}
    assert await groups.members_by(scim.deployment.database, str(group["id"]), source="scim") == set(ids[3:])


async def test_of_two_changes_of_one_version_one_is_refused(scim: ScimRoom) -> None:
    made, group = await scim.add_user("version-once"), await scim.add_group("Version once")
    for path, schema, name in (
        (f"/Users/{made['id']}", USER, "userName"), (f"/Groups/{group['id']}", GROUP, "displayName"),
    ):  # fmt: skip
        tag = {"If-Match": (await scim.call("GET", path)).headers["etag"]}
        change = {"schemas": [schema], "externalId": "x"}
        answers = await asyncio.gather(
            *(scim.call("PUT", path, change | {name: f"{path} {number}"}, headers=tag) for number in range(4))
        )
        assert sorted(one.status_code for one in answers) == [200, 412, 412, 412]


async def test_a_directory_takes_no_group_that_gives_something(tmp_path: Path) -> None:
    async with running_scim_room(tmp_path, admin={"group_roles": {"Vault admins": "administrator"}}) as opened:

        async def take(name: str) -> int:
            return (await opened.call("POST", "/Groups", {"schemas": [GROUP], "displayName": name})).status_code

        alice = await opened.room.user("alice")
        role = await admin_groups.create(opened.operator, "Vault admins")
        owner, plain = [await admin_groups.create(opened.operator, name) for name in ("Owners", "Plain")]
        account = await opened.room.account(alice, "slack", label="Team", scopes=frozenset({"chat:write"}))
        given = await group_accounts.give(
            opened.operator, alice, account.id, owner, reads_only=False, asks_writes=False
        )
        assert [await take(one) for one in ("vault ADMINS", "Owners", "Plain")] == [409, 409, 201]
        moved = (await opened.add_group("Elsewhere"))["id"]
        rename = {"op": "replace", "path": "displayName", "value": "Vault admins"}
        refusal(await opened.patch(f"/Groups/{moved}", rename), 409, "uniqueness")
        await group_accounts.end(opened.operator, owner, given.id)
        await admin_groups.delete(opened.operator, role)
        assert [await take(one) for one in ("Vault admins", "Owners")] == [201, 201]
        assert plain.name == "Plain"


async def test_a_deleted_person_is_gone_and_their_name_is_free(scim: ScimRoom) -> None:
    made = await scim.add_user("gone@company.example")
    assert (await scim.call("DELETE", f"/Users/{made['id']}")).status_code == 204
    refusal(await scim.call("GET", f"/Users/{made['id']}"), 404)
    assert await users.get_user(scim.deployment.database, str(made["id"])) is None
    again = await scim.add_user("gone@company.example")
    assert again["id"] != made["id"]


async def test_a_change_of_an_older_version_is_refused(scim: ScimRoom) -> None:
    made = await scim.add_user("versions")
    path, old = f"/Users/{made['id']}", made["meta"]["version"]
    assert (await scim.call("GET", path, headers={"If-None-Match": str(old)})).status_code == 304
    change = {"schemas": [USER], "userName": "versions", "displayName": "V"}
    assert (await scim.call("PUT", path, change, headers={"If-Match": str(old)})).status_code == 200
    refusal(await scim.call("PUT", path, change, headers={"If-Match": str(old)}), 412)
    refusal(await scim.call("DELETE", path, headers={"If-Match": str(old)}), 412)
    new = (await scim.call("GET", path)).headers["etag"]
    assert (await scim.call("DELETE", path, headers={"If-Match": new})).status_code == 204


async def test_a_search_for_what_no_database_holds_finds_nothing(scim: ScimRoom) -> None:
    for kind in ("Users", "Groups"):
        for wanted in ("id", "externalId", "userName" if kind == "Users" else "displayName"):
            for value in ("\\u0000", "\\ud800", "nobody"):
                found = await scim.call("POST", f"/{kind}/.search", {"filter": f'{wanted} eq "{value}"'})
                assert (found.status_code, found.json()["totalResults"]) == (200, 0), found.text
        for index in (2**31, 2**63, 10**30):
            found = await scim.call("GET", f"/{kind}?startIndex={index}")
            assert (found.status_code, found.json()["itemsPerPage"]) == (200, 0), found.text


async def test_lists_come_in_pages(scim: ScimRoom) -> None:
    for number in range(3):
        await scim.add_user(f"page-{number}")
    whole = (await scim.call("GET", "/Users?count=200")).json()
    names = [one["userName"] for one in whole["Resources"]]
    assert len(names) == whole["totalResults"] == whole["itemsPerPage"]
    pages = [(await scim.call("GET", f"/Users?startIndex={n + 1}&count=1")).json() for n in range(len(names))]
    assert [one["Resources"][0]["userName"] for one in pages] == names
    assert {one["totalResults"] for one in pages} == {len(names)}
    empty = (await scim.call("GET", "/Users?count=0")).json()
    assert (empty["totalResults"], empty["Resources"]) == (len(names), [])
    filtered = (await scim.call("GET", '/Users?filter=userName sw "page-"&startIndex=2&count=1')).json()
    assert (filtered["totalResults"], filtered["Resources"][0]["userName"]) == (3, "page-1")
    searched = await scim.call("POST", "/Users/.search", {"filter": 'userName eq "page-2"', "attributes": ["userName"]})
    assert set(searched.json()["Resources"][0]) == {"schemas", "id", "userName"}


async def test_a_groups_members_are_the_directorys_alone(scim: ScimRoom) -> None:
    one, two = await scim.add_user("in-1"), await scim.add_user("in-2")
    made = await scim.add_group("Sales", one["id"])
    path, now = f"/Groups/{made['id']}", scim.deployment.now()
    async with scim.deployment.transaction() as transaction:
        alice = await scim.room.user("alice")
        await groups.add_member(transaction, str(made["id"]), alice.id, source=groups.LOCAL, now=now)

    async def names() -> set[str]:
        return {member.name for member in await groups.members(scim.deployment.database, str(made["id"]), now=now)}

    added = await scim.patch(path, {"op": "Add", "path": "members", "value": [{"value": two["id"]}]})
    assert {member["value"] for member in added.json()["members"]} == {one["id"], two["id"]}
    assert (await scim.call("GET", f"/Users/{two['id']}")).json()["groups"][0]["display"] == "Sales"
    gone = await scim.patch(path, {"op": "remove", "path": f'members[value eq "{one["id"]}"]'})
    assert [member["value"] for member in gone.json()["members"]] == [two["id"]]
    assert await names() == {"alice", "in-2"}
    entra = await scim.patch(path, {"op": "Remove", "path": "members", "value": [{"value": two["id"]}]})
    assert "members" not in entra.json()
    refusal(
        await scim.call(
            "POST", "/Groups", {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "displayName": "SALES"}
        ),
        409,
        "uniqueness",
    )
    hidden = await scim.call("GET", f"{path}?excludedAttributes=members")
    assert "members" not in hidden.json()
    assert (await scim.call("DELETE", path)).status_code == 204
    refusal(await scim.call("GET", path), 404)
    assert await names() == {"alice"}  # an admin added her


# Refusals


async def test_without_a_live_token_nothing_is_answered(scim: ScimRoom) -> None:
    first, _ = await provisioning.make_token(scim.operator, "rotated", days=1, grace=0)
    assert len(first.removeprefix(directory.PREFIX)) == 43  # 256 bits
    assert (await scim.call("GET", "/Users", token=first)).status_code == 200
    second, is_rotation = await provisioning.make_token(scim.operator, "rotated", days=1, grace=3600)
    assert is_rotation
    assert (await scim.call("GET", "/Users", token=first)).status_code == 200  # until the grace is over
    scim.deployment.database.clock_offset += 3601
    for secret in ("x", "tvs_", "tvs_" + "A" * 43, first, f"{second} x", "tvs_\u00e4"):
        answer = await scim.http.get("/scim/v2/Users", headers={"Authorization": f"Bearer {secret}".encode()})
        refusal(answer, 401)
        assert answer.headers["www-authenticate"].startswith('Bearer realm="scim"')
    for headers in ({}, {"Authorization": f"Basic {second}"}):
        refusal(await scim.http.get("/scim/v2/Schemas", headers=headers), 401)
    assert (await scim.call("GET", "/Users", token=second)).status_code == 200
    await provisioning.end_token(scim.operator, "rotated")
    refusal(await scim.call("GET", "/Users", token=second), 401)
    with pytest.raises(ChangeRefused):
        await provisioning.end_token(scim.operator, "rotated")
    assert [one.name for one in await directory.list_tokens(scim.deployment.database)] == ["company"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b'{"schemas": ["' + USER.encode() + b'"], "userName": "nul\\u0000"}', "invalidSyntax"),
        (b'{"schemas": ["' + USER.encode() + b'"], "userName": "twice", "userName": "twice"}', "invalidSyntax"),
        (b'{"schemas": ["' + USER.encode() + b'"], "userName": "half \\ud800"}', "invalidSyntax"),
        (b"[" * 40 + b"]" * 40, "invalidSyntax"),
        (b"not JSON", "invalidSyntax"),
        (b'{"schemas": ["' + USER.encode() + b'"]}', "invalidValue"),
        (b'{"schemas": ["' + USER.encode() + b'"], "userName": ""}', "invalidValue"),
        (b'{"schemas": ["' + USER.encode() + b'"], "userName": "' + b"x" * 201 + b'"}', "invalidValue"),
        (b'{"schemas": ["' + USER.encode() + b'"], "userName": "a\\u202eb"}', "invalidValue"),
        (b'{"schemas": ["' + USER.encode() + b'"], "userName": 7}', "invalidValue"),
    ],
)
async def test_a_body_that_cannot_be_stored_is_refused(scim: ScimRoom, content: bytes, kind: str) -> None:
    headers = {"Authorization": f"Bearer {scim.token}", "Content-Type": "application/scim+json"}
    refusal(await scim.http.post("/scim/v2/Users", content=content, headers=headers), 400, kind)


async def test_a_request_that_scim_has_no_answer_to_is_refused(scim: ScimRoom) -> None:
    made = await scim.add_user("asked about")
    path = f"/Users/{made['id']}"

    async def call_scim(method: str, at: str, content: object = None) -> httpx2.Response:
        return await scim.call(method, at, content)

    refusal(await call_scim("GET", "/Nothing"), 404)
    refusal(await call_scim("GET", "/Schemas/urn:nothing"), 404)
    refusal(await call_scim("DELETE", "/Users"), 405)
    refusal(await call_scim("POST", "/Bulk", {}), 501)
    refusal(await call_scim("GET", "/Me"), 501)
    refusal(await call_scim("GET", "/Users/%00"), 404)
    refusal(await call_scim("GET", '/Users?filter=userName zz "a"'), 400, "invalidFilter")
    refusal(await call_scim("GET", '/Users?filter=shoeSize eq "a"'), 400, "invalidFilter")
    refusal(await call_scim("GET", "/Users?count=many"), 400, "invalidValue")
    refusal(await call_scim("GET", "/Users?count=1&count=2"), 400, "invalidValue")
    refusal(await scim.patch(path), 400, "invalidValue")
    refusal(await scim.patch(path, {"op": "remove", "path": "userName"}), 400, "mutability")
    refusal(await scim.patch(path, {"op": "replace", "path": "groups", "value": [{"value": "x"}]}), 400, "mutability")
    refusal(await scim.patch(path, {"op": "replace", "path": "userName[", "value": "x"}), 400, "invalidPath")
    wrong = await scim.call("POST", "/Users", {"userName": "x"}, headers={"Content-Type": "text/plain"})
    refusal(wrong, 400, "invalidSyntax")
    assert (await scim.patch(path, {"op": "replace", "path": "shoeSize", "value": 7})).status_code == 200  # ignored
    assert (await scim.call("GET", path)).json()["userName"] == "asked about"


async def test_a_busy_directory_is_told_to_wait(tmp_path_factory: pytest.TempPathFactory) -> None:
    limited = {"admin": {"requests_per_minute": 10}}
    async with running_scim_room(tmp_path_factory.mktemp("busy"), **limited) as opened:
        found = [(await opened.call("GET", "/Users?count=0")).status_code for _ in range(11)]
        assert found[:10] == [200] * 10
        assert int((await opened.call("GET", "/Users")).headers["retry-after"]) > 0
        assert found[10] == 429
