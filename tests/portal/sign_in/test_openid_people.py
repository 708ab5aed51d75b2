"""Whom an OpenID Connect provider lets in: nobody new unless the operator allows it, and nobody by a name alone."""

from __future__ import annotations

import getpass
import html

import pytest

from server.mcp.local_owner import find_owner, local_principal
from server.openid_settings import OpenIDSettings
from server.sign_in import password
from server.sign_in.openid import Claims as OpenIDClaims
from server.sign_in.openid import is_of_domain
from tests.support.doubles.openid_double import Claims, OpenIDDouble
from tests.support.person import Person
from tests.support.rooms.openid_room import begin, provider, room, shared_openid_room, sign_in, user_of, whoami
from tests.support.rooms.portal_room import Room, query_of, running_room
from vault import users

__all__ = ["provider", "room", "shared_openid_room"]  # fixtures


async def test_without_self_service_an_unknown_subject_stays_out(room: Room, provider: OpenIDDouble) -> None:
    provider.subject = "invited"
    page = await sign_in(await room.browser(), "members")
    assert page.status_code == 403
    assert "an account here yet" in page.text
    user = await room.user()
    async with room.deployment.transaction() as transaction:
        await users.link_identity(
            transaction, issuer=provider.url, subject="invited", user_id=user.id, now=room.deployment.now()
        )
    person = await room.browser()
    assert (await sign_in(person, "members")).url.path == "/activity"
    assert await whoami(person) == user.name


async def test_whoever_is_not_let_in_reads_which_identity_the_operator_links(
    room: Room, provider: OpenIDDouble
) -> None:
    provider.subject = "new <b>here</b>"
    page = await sign_in(await room.browser(), "members")
    assert page.status_code == 403
    told = html.unescape(page.text)
    assert provider.subject in told
    assert f"at {provider.url}" in told
    assert provider.subject not in page.text  # it is escaped
    assert await user_of(room, provider) is None


@pytest.mark.requirement("S-137")
async def test_a_provider_lets_nobody_new_in_unless_the_operator_says_so(
    tmp_path_factory: pytest.TempPathFactory, shared_openid_room: tuple[Room, OpenIDDouble]
) -> None:
    provider = shared_openid_room[1]
    provider.reset()
    provider.subject = "from a whole public provider"
    silent = {name: value for name, value in provider.settings().items() if name != "create_users"}
    overrides = {
        "sign_in": {"openid": {"company": silent, "open": silent | {"create_users": True}}},
        "sandbox": {"loopback_openid": True},
    }
    async with running_room(tmp_path_factory.mktemp("silent"), overrides=overrides) as room:
        provider.now = room.deployment.now
        assert (await sign_in(await room.browser())).status_code == 403
        assert await user_of(room, provider) is None
        assert (await sign_in(await room.browser(), "open")).url.path == "/activity"


CONFIRMED: Claims = {"email": "Dan@Company.Example", "email_verified": True}


@pytest.mark.requirement("S-137")
@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"email_verified": True},
        CONFIRMED | {"email_verified": False},
        CONFIRMED | {"email_verified": None},
        CONFIRMED | {"email_verified": "false"},
        CONFIRMED | {"email": "dan@other.example"},
        CONFIRMED | {"email": "dan@company.example.evil.example"},
        CONFIRMED | {"email": "dan@evilcompany.example"},
        CONFIRMED | {"email": "dan@sub.company.example"},
        CONFIRMED | {"email": "dan@company.example@evil.example"},
        CONFIRMED | {"email": "company.example"},
        CONFIRMED | {"email": ["dan@company.example"]},
        {"email": "dan@company.example", "hd": "company.example"},
    ],
)
async def test_a_newcomer_without_a_confirmed_address_of_the_domain_is_refused(
    room: Room, provider: OpenIDDouble, claims: Claims
) -> None:
    provider.subject = f"newcomer {sorted(claims.items())}"
    provider.person = {"preferred_username": "dan"} | claims
    assert (await sign_in(await room.browser(), "domains")).status_code == 403
    assert await user_of(room, provider) is None
    provider.person = {"preferred_username": "dan"} | CONFIRMED  # the twin
    assert (await sign_in(await room.browser(), "domains")).url.path == "/activity"
    assert await user_of(room, provider) is not None


async def test_who_has_an_account_signs_in_whatever_the_domain(room: Room, provider: OpenIDDouble) -> None:
    provider.subject = "linked before"
    await sign_in(await room.browser())
    assert (await sign_in(await room.browser(), "domains")).url.path == "/activity"


async def test_the_address_is_asked_for_only_where_a_domain_decides(room: Room, provider: OpenIDDouble) -> None:
    asked = {name: query_of(await begin(await room.browser(), name))["scope"] for name in ("company", "domains")}
    assert asked == {"company": "openid profile", "domains": "openid profile email"}


@pytest.mark.parametrize(
    ("claims", "is_of_it"),
    [
        (CONFIRMED, False),  # anyone can confirm an address of a domain without a Workspace, and keep it
        (CONFIRMED | {"hd": "company.example"}, True),
        (CONFIRMED | {"hd": "other.example"}, False),
        ({"hd": "Company.Example"}, True),
    ],
)
def test_at_google_the_workspace_decides(claims: Claims, is_of_it: bool) -> None:
    token = {"iss": "https://accounts.google.com", "sub": "1", "aud": "us", "exp": 1, "iat": 0, "nonce": "n"} | claims
    assert is_of_domain(OpenIDClaims.model_validate(token), ("company.example",)) is is_of_it


def test_domains_are_written_in_one_way_and_not_beside_everybody() -> None:
    good = {"issuer": "https://op.example", "client_id": "us"}
    assert OpenIDSettings.model_validate(good | {"domains": ["company.example"]}).domains == ("company.example",)
    for bad in ("Company.example", "@company.example", "company", "", "*.example", "a..example", "stra\u00dfe.example"):
        with pytest.raises(ValueError, match="isn't a domain"):
            OpenIDSettings.model_validate(good | {"domains": [bad]})
    with pytest.raises(ValueError, match="remove one of them"):
        OpenIDSettings.model_validate(good | {"domains": ["company.example"], "create_users": True})


@pytest.mark.requirement("S-137")
@pytest.mark.parametrize("admins", [0, 1, 2])
async def test_the_owner_of_the_data_directory_is_nobody_who_only_has_their_name(
    tmp_path_factory: pytest.TempPathFactory, shared_openid_room: tuple[Room, OpenIDDouble], admins: int
) -> None:
    """A provider's user chose the name of the operating system's user, and was here first."""
    provider = shared_openid_room[1]
    provider.reset()
    provider.person = {"preferred_username": getpass.getuser()}
    overrides = {"sign_in": {"openid": {"company": provider.settings()}}, "sandbox": {"loopback_openid": True}}
    async with running_room(tmp_path_factory.mktemp("owner"), overrides=overrides) as room:
        provider.now = room.deployment.now
        alice = await room.user("alice")
        if admins == 0:
            async with room.deployment.transaction() as transaction:
                await users.delete_user(transaction, alice.id, now=room.deployment.now())
        elif admins == 2:
            await room.vault.add_user("second", is_admin=True)
        person = await room.browser()
        await sign_in(person)
        stranger = await user_of(room, provider)
        assert stranger is not None
        assert stranger.name == getpass.getuser()
        principal = await local_principal(room.deployment, "claude")
        assert principal.user_id != stranger.id
        assert (principal.user_id == alice.id) == (admins == 1)
        owner = await room.browser()
        await owner.open(await password.owner_link(room.deployment, principal.user_id))
        if admins != 1:
            assert (await whoami(owner)).startswith(f"{getpass.getuser()} (")
        agents = {await _agents(browser) for browser in (owner, person)}
        assert agents == {True, False}, "the owner's agent is the owner's"


async def _agents(person: Person) -> bool:
    return "claude" in (await person.open("/agents")).text


@pytest.mark.requirement("S-137")
async def test_an_owner_whose_name_is_free_gets_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with running_room(tmp_path_factory.mktemp("free")) as room:
        await room.vault.add_user("second", is_admin=True)
        owner = await find_owner(room.deployment)
        assert (owner.name, owner.is_admin) == (getpass.getuser(), False)
        assert (await find_owner(room.deployment)).id == owner.id


async def test_a_disabled_user_stays_out(room: Room, provider: OpenIDDouble) -> None:
    provider.subject = "disabled"
    await sign_in(await room.browser())
    user = await user_of(room, provider)
    assert user is not None
    async with room.deployment.transaction() as transaction:
        await users.disable_user(transaction, user.id, now=room.deployment.now())
    assert (await sign_in(await room.browser())).status_code == 403
