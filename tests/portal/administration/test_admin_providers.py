"""Providers set up in the browser: who may, what is refused, and that every process of the vault uses the result."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from server.app import open_deployment
from server.deployment import Deployment
from server.lifecycle.periodic_steps import STEPS
from server.settings import load_settings
from tests.conftest import Store
from tests.support.harness import PASSWORD
from tests.support.person import Person, forms_of
from tests.support.rooms.portal_room import Room, running_room
from vault import registrations, users
from vault.refusals import CiphertextRejected
from vault.registrations import EnteredRegistration

GITHUB = "/administration/providers/github"
ID = "Iv1.0123456789abcdef"
SECRET = "0123456789abcdef0123456789abcdef01234567"


async def _set_up(person: Person, *, path: str = GITHUB, **answers: str | None) -> str:
    """Submit the form of a provider's page; returns the text that follows."""
    page = await person.open(path)
    fields: dict[str, str | list[str] | None] = {"client_id": ID, "client_secret": SECRET, **answers}
    return (await person.submit(page, fields, form=form_at(page, path))).text


def form_at(page: httpx2.Response, action: str) -> int:
    """The index of the form on the page that has exactly this action."""
    return [one.action for one in forms_of(page.text)].index(action)


def _is_configured(deployment: Deployment, provider: str) -> bool:
    return deployment.vault.upstreams[provider].is_configured


async def test_an_administrator_sets_a_provider_up_and_removes_it(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="token_vault")
    admin = await room.signed_in("alice")
    assert "github_issue_read" not in {tool.name for tool in room.deployment.tools}
    first = await admin.open(GITHUB)
    assert f"{room.url}/connect/callback/github" in first.text
    assert "GitHub is set up." in await _set_up(admin)
    assert _is_configured(room.deployment, "github")
    assert "github_issue_read" in {tool.name for tool in room.deployment.tools}
    page = await admin.open(GITHUB)
    assert ID in page.text
    assert SECRET not in page.text + caplog.text
    assert "Save" in page.text
    stored = await registrations.get_registration(room.deployment.database, "github")
    assert stored is not None
    assert SECRET.encode() not in (stored.sealed or b"")

    assert "GitHub is set up." in await _set_up(admin, client_secret="")  # an empty field keeps the secret
    kept = await registrations.get_registration(room.deployment.database, "github")
    assert kept is not None
    opened = await registrations.open_registration(room.deployment.database, room.deployment.keys, kept)
    assert opened == EnteredRegistration(ID, SECRET)
    with pytest.raises(CiphertextRejected):  # the key of the replaced secret is gone
        await registrations.open_registration(room.deployment.database, room.deployment.keys, stored)

    confirm = await admin.open(f"{GITHUB}/remove")
    assert "is removed" in (await admin.submit(confirm, form="/remove")).text
    assert not _is_configured(room.deployment, "github")
    with pytest.raises(CiphertextRejected):
        await registrations.open_registration(room.deployment.database, room.deployment.keys, kept)
    recorded = [event for event in await room.events() if event.kind.startswith("provider.")]
    assert [event.kind for event in recorded] == ["provider.set_up", "provider.set_up", "provider.removed"]
    assert {event.details["by"] for event in recorded} == {"alice"}
    assert SECRET not in str([event.details for event in recorded])


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"client_id": "123456-abc.apps.googleusercontent.com"}, "a client ID of Google"),
        ({"client_id": ""}, "client ID is empty"),
        ({"client_secret": "ghp_0123456789"}, "a GitHub token"),
        ({"client_secret": ID}, "client ID again"),
        ({"client_secret": ""}, "client secret is empty"),
    ],
)
async def test_what_cannot_be_right_is_refused(room: Room, answers: dict[str, str], said: str) -> None:
    admin = await room.signed_in("alice")
    page = await _set_up(admin, **answers)
    assert said in page
    assert SECRET not in page
    assert not _is_configured(room.deployment, "github")
    assert "GitHub is set up." in await _set_up(admin)


@pytest.mark.parametrize(("name", "is_taken"), [("github", True), ("repositories", False)])
async def test_a_provider_needs_the_name_of_its_tool_set(tmp_path: Path, name: str, is_taken: bool) -> None:
    mine = {"title": "Mine", "enable": ["slack_*"]}
    async with running_room(tmp_path / "vault", overrides={"tools": {"sets": {name: mine}}}) as own:
        page = await _set_up(await own.signed_in("alice"))
        assert ("sets.github: there is a set of this name" in page) is is_taken
        stored = await registrations.get_registration(own.deployment.database, "github")
        assert (stored is None) is is_taken


async def test_only_an_administrator_gets_in(room: Room) -> None:
    person = await room.user("bob")
    browser = await room.signed_in(person)
    for path in ("/administration", "/administration/providers", GITHUB):
        answer = await browser.open(path)
        assert answer.status_code == 403, path
        assert "Administrators only" in answer.text
    assert 'href="/administration"' not in (await browser.open("/")).text
    async with room.deployment.transaction() as transaction:
        await transaction.execute("update users set is_admin = 1 where id = :id", {"id": person.id})
    assert (await browser.open(GITHUB)).status_code == 200
    assert 'href="/administration"' in (await browser.open("/")).text


async def test_an_administrator_who_no_longer_is_one_changes_nothing(room: Room) -> None:
    admin = await room.signed_in("alice")
    page = await admin.open(GITHUB)

    async def set_admin(value: int) -> None:
        async with room.deployment.transaction() as transaction:
            await transaction.execute("update users set is_admin = :value where name = 'alice'", {"value": value})

    await set_admin(0)
    answers: dict[str, str | list[str] | None] = {"client_id": ID, "client_secret": SECRET}
    assert (await admin.submit(page, answers, form=form_at(page, GITHUB))).status_code == 403
    assert not _is_configured(room.deployment, "github")
    await set_admin(1)
    assert (await admin.submit(page, answers, form=form_at(page, GITHUB))).status_code == 200
    assert _is_configured(room.deployment, "github")


async def test_a_form_of_another_site_or_browser_changes_nothing(room: Room) -> None:
    admin = await room.signed_in("alice")
    (form,) = [one for one in forms_of((await admin.open(GITHUB)).text) if one.action == GITHUB]
    fields = dict(form.fill_in({"client_id": ID, "client_secret": SECRET}))
    for headers, changes in (
        ({"Origin": "https://elsewhere.example"}, {}),
        ({"Origin": room.url}, {"form_token": "0" * 64}),
    ):
        answer = await admin.http.post(GITHUB, data={**fields, **changes}, headers=headers)
        assert answer.status_code == 403
    assert not _is_configured(room.deployment, "github")
    assert (await admin.http.post(GITHUB, data=fields, headers={"Origin": room.url})).status_code == 303
    assert _is_configured(room.deployment, "github")


async def test_a_page_that_is_out_of_date_saves_nothing(room: Room) -> None:
    first, second = await room.signed_in("alice"), await room.signed_in("alice")
    old = await first.open(GITHUB)
    assert "GitHub is set up." in await _set_up(second)
    answers: dict[str, str | list[str] | None] = {"client_id": "Iv1.fedcba9876543210", "client_secret": SECRET}
    refused = await first.submit(old, answers, form=form_at(old, GITHUB))
    assert refused.status_code == 409
    assert "out of date" in refused.text
    assert room.deployment.catalog.provider("github").registration.client_id == ID
    fresh = await first.open(GITHUB)
    assert (await first.submit(fresh, answers, form=form_at(fresh, GITHUB))).status_code == 200
    assert room.deployment.catalog.provider("github").registration.client_id == "Iv1.fedcba9876543210"


async def test_a_change_needs_a_recent_sign_in(room: Room) -> None:
    admin = await room.signed_in("alice")
    page = await admin.open(GITHUB)
    answers: dict[str, str | list[str] | None] = {"client_id": ID, "client_secret": SECRET}
    room.deployment.database.clock_offset += 1801
    asked = await admin.submit(page, answers, form=form_at(page, GITHUB))
    assert "/sign-in" in str(asked.url)
    assert not _is_configured(room.deployment, "github")
    assert "sign in again" in (await admin.open(GITHUB)).text.lower()  # shown, with the next step
    back = await admin.sign_in("alice", PASSWORD, page=asked)
    assert str(back.url).endswith(GITHUB)
    assert (await admin.submit(back, answers, form=form_at(back, GITHUB))).status_code == 200
    assert _is_configured(room.deployment, "github")


async def test_what_the_settings_say_comes_first(room: Room) -> None:
    admin = await room.signed_in("alice")
    page = (await admin.open("/administration/providers/slack")).text
    assert "set in the settings file" in page
    assert 'name="client_secret"' not in page
    async with room.deployment.transaction() as transaction:
        entered = EnteredRegistration("9999999.9999999", SECRET)
        kept = await registrations.save_registration(
            transaction, room.deployment.keys, entered, provider="slack", by="x", now=1
        )
    await room.deployment.live.refresh(room.deployment.database, room.deployment.keys)
    assert kept is not None
    assert room.deployment.catalog.provider("slack").registration.client_id != "9999999.9999999"


async def test_the_test_button_says_what_the_provider_says(room: Room) -> None:
    admin = await room.signed_in("alice")
    slack = "/administration/providers/slack"
    page = await admin.submit(await admin.open(slack), form=f"{slack}/test")
    assert "accepts our client ID and secret" in page.text
    live = room.deployment.live
    provider = live.current.catalog.provider("slack")
    wrong = dataclasses.replace(provider.registration, client_secret="wrong")
    object.__setattr__(provider, "registration", wrong)  # as if it had changed there
    refused = await admin.submit(await admin.open(slack), form=f"{slack}/test")
    assert "rejects our client ID or secret" in refused.text
    assert "Correct the client ID and secret on this page" in refused.text
    kept = provider.hosts
    object.__setattr__(provider, "hosts", kept.model_copy(update={"token_url": "http://127.0.0.1:1/token"}))
    silent = await admin.submit(await admin.open(slack), form=f"{slack}/test")
    object.__setattr__(provider, "hosts", kept)
    assert "network access" in silent.text, "entering the registration again would not help"


@asynccontextmanager
async def _replica(store: Store, data: Path) -> AsyncGenerator[Deployment]:
    """One process's view of the vault, which looks for changes."""
    settings = load_settings(overrides={"database": {"url": store.url}})
    async with open_deployment(settings, data=data) as deployment:
        yield deployment


async def test_each_process_takes_up_what_another_entered(store: Store) -> None:
    """Two processes of one database, each with its own pool, keys and catalog: they share only the upkeep's step."""
    (step,) = [one for one in STEPS if one.name == "providers"]
    assert step.every <= 5
    async with _replica(store, store.data) as first, _replica(store, store.data) as second:
        user = await _admin(first)
        async with first.transaction() as transaction:
            entered = EnteredRegistration(ID, SECRET)
            kept = await registrations.save_registration(
                transaction, first.keys, entered, provider="github", by=user, now=first.now()
            )
        assert kept is not None
        assert not _is_configured(second, "github")
        await step.work(second)
        assert second.catalog.provider("github").registration.client_secret == SECRET
        assert second.offer.index.find("github issue", among=frozenset(t.name for t in second.tools), limit=3)
        async with second.transaction() as transaction:
            assert await registrations.remove_registration(transaction, second.keys, kept)
        await step.work(first)
        assert not _is_configured(first, "github")
        await asyncio.gather(step.work(first), step.work(second))


async def test_a_registration_whose_key_is_gone_is_said_and_stops_nothing(store: Store) -> None:
    async with _replica(store, store.data) as deployment:
        user = await _admin(deployment)
        async with deployment.transaction() as transaction:
            for provider in ("github", "dropbox"):
                kept = await registrations.save_registration(
                    transaction, deployment.keys, EnteredRegistration(ID, SECRET), provider=provider, by=user, now=1
                )
                assert kept is not None
                if provider == "github":
                    await deployment.keys.destroy_connection_key(transaction, kept.key_name)
        await deployment.live.refresh(deployment.database, deployment.keys)
        assert list(deployment.live.current.unusable) == ["github"]
        assert _is_configured(deployment, "dropbox")


async def _admin(deployment: Deployment) -> str:
    async with deployment.transaction() as transaction:
        return (await users.create_user(transaction, "root", is_admin=True, now=1)).id


@pytest.mark.parametrize("is_connected", [True, False])
async def test_a_registration_with_an_address_can_be_removed_only_without_accounts(
    room: Room, *, is_connected: bool
) -> None:
    admin, path = await room.signed_in("alice"), "/administration/providers/gitea"
    page = await admin.open(path)
    fields = {"client_id": "7e9f3a52-2f0c-4a1f-9d4c-0123456789ab", "client_secret": "gto_" + "b" * 52}
    assert "is set up." in (await admin.submit(page, {**fields, "input.host": "git.example"}, form=path)).text
    if is_connected:
        await room.account(await room.user(), "gitea", label="Team", scopes=frozenset({"read:user"}))
    confirm = await admin.open(f"{path}/remove")
    assert ("Disconnect them first" in confirm.text) is is_connected
    assert ('<button class="danger">' not in confirm.text) is is_connected
    if not is_connected:
        assert "is removed" in (await admin.submit(confirm, form="/remove")).text
