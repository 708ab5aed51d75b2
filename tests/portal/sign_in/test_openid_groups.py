"""Groups from an OpenID Connect provider's claims, and people whom the directory added before their first sign-in."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator

import pytest

from tests.support.doubles.openid_double import OpenIDDouble, running_openid
from tests.support.rooms.openid_room import provider, room, sign_in, user_of
from tests.support.rooms.portal_room import Room, running_room
from vault import directory, groups, users
from vault.directory import ProvisionedPerson
from vault.records import User

__all__ = ["provider", "room"]  # fixtures


@pytest.fixture(scope="module")
async def shared_openid_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[tuple[Room, OpenIDDouble]]:
    async with running_openid(lambda: int(time.time())) as provider:
        claimed = provider.settings() | {"groups_claim": "groups", "groups_scope": "groups", "groups_days": 7}
        closed = provider.settings(create_users=False)
        overrides = {
            "sign_in": {
                "openid": {
                    "company": claimed,
                    "mapped": claimed | {"groups": {"6f3c": "Sales"}},
                    "plain": provider.settings(),
                    "directory": closed | {"directory_claim": "oid"},
                    "closed": closed,
                }
            },
            "sandbox": {"loopback_openid": True},
        }
        async with running_room(tmp_path_factory.mktemp("groups"), overrides=overrides) as room:
            yield room, provider


async def groups_after(room: Room, provider: OpenIDDouble, claim: object, *, at: str = "company") -> set[str]:
    """The names of the person's groups after a sign-in whose ID token has these claims."""
    provider.change_claims = lambda claims: claims if claim is None else claims | {"groups": claim}
    assert (await sign_in(await room.browser(), at)).status_code == 200
    user = await user_of(room, provider)
    assert user is not None
    return {
        one.group.name for one in await groups.of_person(room.deployment.database, user.id, now=room.deployment.now())
    }


async def test_a_person_is_in_the_groups_that_the_last_sign_in_named(room: Room, provider: OpenIDDouble) -> None:
    provider.subject = "in groups"
    assert await groups_after(room, provider, ["Sales", "Legal", 7]) == {"Sales", "Legal"}
    assert provider.requests[-1]["scope"] == "openid profile groups"
    assert await groups_after(room, provider, "Legal") == {"Legal"}
    assert await groups_after(room, provider, None) == set()
    assert await groups_after(room, provider, ["Sales"]) == {"Sales"}
    room.deployment.database.clock_offset += 7 * 86400
    user = await user_of(room, provider)
    assert user is not None
    assert not await groups.names_of_person(room.deployment.database, user.id, now=room.deployment.now())


async def test_a_provider_without_the_setting_gives_no_groups(room: Room, provider: OpenIDDouble) -> None:
    provider.subject = "unasked"
    assert await groups_after(room, provider, ["Sales"], at="plain") == set()
    assert await groups_after(room, provider, ["Sales"]) == {"Sales"}


async def test_only_listed_values_become_groups_where_the_settings_list_them(
    room: Room, provider: OpenIDDouble
) -> None:
    provider.subject = "mapped"
    assert await groups_after(room, provider, ["6f3c", "Sales", "Administrators"], at="mapped") == {"Sales"}
    assert await groups_after(room, provider, ["Sales", "Administrators"], at="mapped") == set()


async def provision_user(room: Room, name: str, external_id: str) -> User:
    now = room.deployment.now()
    async with room.deployment.transaction() as transaction:
        user = await users.create_user(transaction, name, now=now)
        told = ProvisionedPerson(user.id, f"{name}@company.example", now, now, external_id=external_id)
        await directory.store_person(transaction, told)
    return user


async def test_a_provisioned_person_is_linked_at_their_first_sign_in(room: Room, provider: OpenIDDouble) -> None:
    name = f"dora-{secrets.token_hex(4)}"
    expected = await provision_user(room, name, f"oid-{name}")
    provider.subject = f"pairwise-{name}"
    provider.change_claims = lambda claims: claims | {"oid": f"oid-{name}"}
    assert (await sign_in(await room.browser(), "closed")).status_code == 403  # the same person, without the setting
    assert (await sign_in(await room.browser(), "directory")).status_code == 200
    assert await user_of(room, provider) == expected
    assert (await sign_in(await room.browser(), "closed")).status_code == 200  # the link is permanent


@pytest.mark.parametrize("claim", [{}, {"oid": ""}, {"oid": 7}, {"oid": "somebody else"}, {"sub": "oid-erik"}])
async def test_without_the_directorys_claim_nobody_is_linked(
    room: Room, provider: OpenIDDouble, claim: dict[str, object]
) -> None:
    provider.subject = f"not erik {claim}"
    provider.person = {"preferred_username": "erik", "email": "erik@company.example"}
    if await users.find_user(room.deployment.database, "erik") is None:
        await provision_user(room, "erik", "oid-erik")
    provider.change_claims = lambda claims: claims | claim
    assert (await sign_in(await room.browser(), "directory")).status_code == 403


async def test_a_second_identity_of_the_issuer_does_not_get_a_linked_persons_account(
    room: Room, provider: OpenIDDouble
) -> None:
    name = f"frieda-{secrets.token_hex(4)}"
    await provision_user(room, name, f"oid-{name}")
    provider.change_claims = lambda claims: claims | {"oid": f"oid-{name}"}
    provider.subject = name
    assert (await sign_in(await room.browser(), "directory")).status_code == 200
    provider.subject = f"not {name}"
    page = await sign_in(await room.browser(), "directory")
    assert page.status_code == 403
    assert "belongs to another identity" in page.text


async def test_two_people_with_one_external_id_are_linked_to_nobody(room: Room, provider: OpenIDDouble) -> None:
    await provision_user(room, "gus", "oid-twice")
    provider.change_claims = lambda claims: claims | {"oid": "oid-twice"}
    await provision_user(room, "gunda", "oid-twice")
    provider.subject = "twice"
    assert (await sign_in(await room.browser(), "directory")).status_code == 403
