"""Requests with a stolen credential that are held back, or are under way, when its owner ends the credential."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from tests.attacks.administration.attack_admin_api import SCOPES, ask, new_account
from tests.attacks.target import PASSWORD, Target
from tests.support.network.held_requests import held_form, held_json
from tests.support.person import Person

NEW = "the owner's new and long enough password"


async def victim(target: Target, *words: str) -> tuple[str, Person, Person]:
    """A new person, their browser, and a thief who has their session."""
    name = f"victim-{secrets.token_hex(4)}"
    await target.command("users", "add", name, *words, "--password-stdin", feed=PASSWORD + "\n")
    owner, thief = await target.browser(name), await target.browser(name)
    return name, owner, thief


async def change_password(owner: Person) -> None:
    answers: dict[str, str | list[str] | None] = {"current": PASSWORD, "password": NEW, "password_again": NEW}
    page = await owner.submit(await owner.open("/account/password"), answers, form="/account/password")
    assert page.status_code == 200, page.text[:300]


@pytest.mark.parametrize("is_changed", [True, False])
async def test_a_stolen_session_lets_no_agent_in_after_the_password_was_changed(
    target: Target, is_changed: bool
) -> None:
    _, owner, thief = await victim(target)
    client_id = str((await target.register())["client_id"])
    page = await thief.open(target.authorize_url(client_id, "A" * 43))
    async with held_form(thief, page, form="/consent", button=("decision", "allow")) as held:
        if is_changed:
            await change_password(owner)
        answer = await held.finish()
    assert ("code=" in answer.headers.get("location", "")) is not is_changed, answer.headers


@pytest.mark.parametrize("is_changed", [True, False])
async def test_a_stolen_session_of_an_admin_adds_no_admin_after_the_password_was_changed(
    target: Target, is_changed: bool
) -> None:
    _, owner, thief = await victim(target, "--admin")
    page = await thief.open("/administration/people/new")
    name = f"planted-{secrets.token_hex(4)}"
    answers: dict[str, str | list[str] | None] = {"name": name, "admin": "yes"}
    async with held_form(thief, page, answers, form="/administration/people/new") as held:
        if is_changed:
            await change_password(owner)
        await held.finish()
    assert (name in await target.command("users", "list")) is not is_changed


@pytest.mark.parametrize("is_removed", [True, False])
async def test_a_removed_service_account_adds_no_admin(target: Target, is_removed: bool) -> None:
    credentials = await new_account(target, *SCOPES)
    token = (await ask(target, credentials)).json()["access_token"]
    name = f"planted-{secrets.token_hex(4)}"
    async with held_json(target.url, "/admin/v1/people", {"name": name, "admin": True}, token=token) as held:
        if is_removed:
            await target.command("clients", "remove", credentials["client_id"])
        answer = await held.finish()
    assert answer.status_code == (401 if is_removed else 201), answer.text
    assert (name in await target.command("users", "list")) is not is_removed


async def sign_in_often(target: Target, name: str) -> list[Person]:
    """Sign in with the old password in several browsers at the same time."""
    thieves = [await target.browser() for _ in range(6)]
    pages = [await one.open("/sign-in") for one in thieves]
    await asyncio.gather(
        *(one.sign_in(name, PASSWORD, page=page) for one, page in zip(thieves, pages, strict=True)),
    )
    return thieves


async def signed_in(thieves: list[Person]) -> int:
    """How many of these browsers are signed in."""
    return sum([(await one.http.get("/account")).status_code == 200 for one in thieves])


async def test_no_sign_in_with_the_old_password_survives_its_change(target: Target) -> None:
    for _ in range(5):
        name, owner, thief = await victim(target)
        signing_in = asyncio.ensure_future(sign_in_often(target, name))
        await change_password(owner)
        thieves = await signing_in
        assert await signed_in([*thieves, thief]) == 0
        assert await signed_in([owner]) == 1
    name, _, _ = await victim(target)
    assert await signed_in(await sign_in_often(target, name)) == 6  # the twin
