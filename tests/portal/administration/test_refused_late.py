"""Refusals to an administrator or a directory that no page leads to, each with the same request that succeeds."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from server.administration import group_accounts, provisioning, reconciliation, registrations
from server.administration import groups as administration
from server.administration.account_imports.accounts import ImportedAccount
from server.administration.account_imports.transfers import NEW, ImportRules, judge
from server.administration.actor import ChangeRefused
from server.administration.declaration import DeclarationRefused, parse_declaration, read_declaration
from server.administration.provisioning import GroupSpec, PersonSpec
from server.notices import senders
from server.notices.http_post import NotAccepted, Post, Uncertain, post
from server.notices.texts import sample
from tests.support.doubles.scripted_server import Reply, scripted_server
from tests.support.rooms.admin_room import AdminRoom, running_admin_room
from vault.directory import ProvisionedPerson
from vault.groups import Group
from vault.notices.channels import GONE, NoticeChannel
from vault.storage.database import Reader

OWN_API = """
name = "orders"
title = "Orders"
audience = "https://orders.example"
[apis]
main = "https://orders.example/v1"
[scopes]
read = { title = "Read orders", reads = true }
[[rules]]
api = "main"
method = "GET"
path = "/{+}"
scopes = ["read"]
[overrides]
sources = []
"""


@pytest.fixture(scope="module")
async def admin(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[AdminRoom]:
    data = tmp_path_factory.mktemp("late")
    (data / "providers").mkdir()
    (data / "providers" / "orders.toml").write_text(OWN_API, encoding="utf-8")
    async with running_admin_room(data) as opened:
        yield opened


async def as_they_are(_: Reader, person: ProvisionedPerson) -> PersonSpec:
    return PersonSpec(person.user_name, "00u1")


async def as_it_is(_: Reader, group: Group) -> GroupSpec:
    return GroupSpec(group.name, "00g1", ())


async def test_a_directory_changes_only_people_whom_it_has(admin: AdminRoom) -> None:
    user = await admin.room.user()
    with pytest.raises(ChangeRefused) as refused:
        await provisioning.change_person(admin.operator, user.id, as_they_are)
    assert refused.value.reason == "no_person"
    await provisioning.take_over(admin.operator, user, external_id=None)
    changed = await provisioning.change_person(admin.operator, user.id, as_they_are)
    assert changed.external_id == "00u1"


async def test_a_directory_changes_only_groups_that_it_made(admin: AdminRoom) -> None:
    own = await administration.create(admin.operator, "Made here")
    with pytest.raises(ChangeRefused) as refused:
        await provisioning.change_group(admin.operator, own.id, as_it_is)
    assert refused.value.reason == "no_group"
    made = await provisioning.add_group(admin.operator, "Made there", external_id=None, members=())
    assert (await provisioning.change_group(admin.operator, made.id, as_it_is)).external_id == "00g1"


async def test_an_account_that_stands_for_its_person_alone_is_not_a_groups(admin: AdminRoom) -> None:
    person, scopes = await admin.room.user(), frozenset({"channels:read"})
    group = await administration.create(admin.operator, "Sales")
    own = await admin.room.account(person, "orders", label="Own", scopes=frozenset({"read"}))
    account = await admin.room.account(person, "slack", label="Team", scopes=scopes)
    with pytest.raises(ChangeRefused) as refused:
        await group_accounts.give(admin.operator, person, own.id, group, reads_only=True, asks_writes=False)
    assert refused.value.reason == "not_given"
    assert await group_accounts.give(admin.operator, person, account.id, group, reads_only=True, asks_writes=False)


async def test_a_service_of_ones_own_takes_no_registration_and_no_accounts_of_a_file(admin: AdminRoom) -> None:
    """It has an audience, so its tokens are the vault's own."""
    rules = ImportRules(scopes={"orders": frozenset({"read"}), "slack": frozenset({"channels:read"})})
    for name, said in (("orders", "unknown provider"), ("slack", NEW)):
        row = ImportedAccount(1, ("alice",), name, account="U1", refresh_token="rt", account_is_ours=True)
        (judged,) = await judge(admin.operator, [row], rules)
        assert judged.outcome == said
    for name in ("orders", "gmail", "nothing"):  # gmail is an alias
        with pytest.raises(ChangeRefused) as refused:
            registrations.provider_named(admin.deployment, name)
        assert refused.value.reason == "no_provider"
    assert registrations.provider_named(admin.deployment, "google").name == "google"


async def test_an_agent_of_a_declaration_keeps_how_it_authenticates(admin: AdminRoom) -> None:
    agent = {"redirect_uris": ["https://app.example/cb"]}
    await reconciliation.apply(await reconciliation.plan(admin.operator, parse_declaration({"agents": {"bot": agent}})))
    with pytest.raises(ChangeRefused, match="how an agent authenticates can't change"):
        await reconciliation.plan(
            admin.operator, parse_declaration({"agents": {"bot": {**agent, "confidential": True}}})
        )
    assert await reconciliation.plan(admin.operator, parse_declaration({"agents": {"bot": agent}})) == ()


def test_a_declaration_and_its_secrets_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "vault.toml"
    file.write_text("[people", encoding="utf-8")
    with pytest.raises(DeclarationRefused, match="isn't valid TOML"):
        read_declaration(file)
    file.write_text('[providers.dropbox]\nclient_id = "a"\nclient_secret_file = "secret"\n', encoding="utf-8")
    with pytest.raises(DeclarationRefused, match="client_secret_file: can't read"):
        read_declaration(file)
    (tmp_path / "secret").write_text("a secret", encoding="utf-8")
    assert read_declaration(file).providers is not None


async def test_a_message_goes_where_it_may_and_is_known_to_arrive_or_not(admin: AdminRoom) -> None:
    def sent_to(url: str) -> Post:
        return Post(url, {}, b"{}", peer="notices", sender="someone", timeout=10)

    with pytest.raises(NotAccepted, match="address"):
        await post(admin.deployment, sent_to("http://10.0.0.1/"))
    async with scripted_server(lambda _: Reply(close=True)) as server:
        with pytest.raises(Uncertain):
            await post(admin.deployment, sent_to(server.url))
        for status, code, is_final in ((503, "busy", False), (429, "busy", False), (400, "refused", True)):
            server.answer = lambda _, status=status: Reply(status, headers={"Retry-After": "7"})
            with pytest.raises(NotAccepted) as refused:
                await post(admin.deployment, sent_to(server.url))
            told = (refused.value.code, refused.value.is_final, refused.value.retry_after)
            assert told == (code, is_final, None if is_final else 7), status
        server.answer = lambda _: Reply()
        await post(admin.deployment, sent_to(server.url))


@pytest.mark.parametrize(("kind", "target", "why"), [("email", "a@b.example", "no_mail"), ("push", "{}", GONE)])
async def test_what_cannot_be_reached_any_more_gets_no_message(
    admin: AdminRoom, kind: str, target: str, why: str
) -> None:
    """The twins are in tests/portal/notices: test_notifications.py and test_web_push.py."""
    channel = NoticeChannel("one", "someone", kind, "", target, admin.deployment.now())
    with pytest.raises(NotAccepted) as refused:
        await senders.send(admin.deployment, channel, sample(admin.deployment))
    assert (refused.value.code, refused.value.is_final) == (why, True)
