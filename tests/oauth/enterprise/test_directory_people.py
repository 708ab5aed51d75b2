"""People whom the directory knows: an assertion with their ID links them, once and only them."""

from __future__ import annotations

import asyncio
import secrets

import httpx2
import pytest

from server.oauth.enterprise.explanation import explain_assertion
from server.oauth.enterprise.refusals import REFUSALS
from server.sign_in.newcomers import link_provisioned
from tests.support.rooms.enterprise_room import Company, issuer_of
from tests.support.rooms.oauth_world import claims_of
from vault import directory, users
from vault.directory import ProvisionedPerson
from vault.records import User


@pytest.fixture
def company(shared_company: Company) -> Company:
    return shared_company


async def provision(company: Company, external_id: str) -> User:
    """A person whom the directory created."""
    place, name = company.place, secrets.token_hex(6)
    user = await place.user(name)
    known = ProvisionedPerson(user.id, name, place.now(), place.now(), external_id)
    async with place.deployment.transaction() as transaction:
        await directory.store_person(transaction, known)
    return user


async def ask(company: Company, subject: str, *, issuer: str = "directed", **claims: object) -> httpx2.Response:
    return await company.ask(company.assertion(iss=issuer_of(issuer), sub=subject, **claims))


def outcome_of(answer: httpx2.Response) -> str:
    """The person of the token, or the reason for the refusal."""
    if answer.status_code == 200:
        return str(claims_of(answer.json()["access_token"])["sub"])
    found = [reason for reason, one in REFUSALS.items() if one.description == answer.json()["error_description"]]
    assert len(found) == 1, answer.text
    return found[0]


async def test_the_directorys_id_links_a_person_who_is_found_by_that_link_from_then_on(company: Company) -> None:
    person = await provision(company, "e-1")
    for wrong in (None, "", 7, ["e-1"], "E-1", "e-2"):
        assert outcome_of(await ask(company, "first", oid=wrong)) == "person", wrong
    assert outcome_of(await ask(company, "first", issuer="matching", oid="e-1")) == "address", "it doesn't count there"
    assert outcome_of(await ask(company, "first", oid="e-1")) == person.id
    assert outcome_of(await ask(company, "first")) == person.id
    linked = [one for one in await company.place.events("user.linked") if one.user_id == person.id]
    assert [(one.details["issuer"], one.details["method"]) for one in linked] == [(issuer_of("directed"), "scim")]
    assert outcome_of(await ask(company, "second", oid="e-1")) == "linked", "an ID that was given to someone else"
    for subject, reason in (("second", "linked"), ("first", "")):
        presented = company.assertion(iss=issuer_of("directed"), sub=subject, oid="e-1")
        assert (await explain_assertion(company.place.deployment, presented)).reason == reason


async def test_an_empty_id_is_no_ones(company: Company) -> None:
    await provision(company, "")
    presented = company.assertion(iss=issuer_of("directed"), sub="sixth", oid="")
    assert (await explain_assertion(company.place.deployment, presented)).reason == "person"
    assert outcome_of(await company.ask(presented)) == "person"


async def test_a_second_visit_with_the_same_identity_finds_the_person(company: Company) -> None:
    deployment, person = company.place.deployment, await provision(company, "e-3")
    for _ in range(2):
        found = await link_provisioned(deployment, issuer="https://i.example", subject="s", external_id="e-3")
        assert found is not None
        assert found.id == person.id
    with pytest.raises(users.IdentityTaken):
        await link_provisioned(deployment, issuer="https://i.example", subject="t", external_id="e-3")
    other = await link_provisioned(deployment, issuer="https://j.example", subject="t", external_id="e-3")
    assert other is not None
    assert other.id == person.id
    linked = [one for one in await company.place.events("user.linked") if one.user_id == person.id]
    assert [one.details["issuer"] for one in linked] == ["https://i.example", "https://j.example"]


async def test_an_id_that_two_people_have_links_neither(company: Company) -> None:
    await provision(company, "twice")
    await provision(company, "twice")
    assert outcome_of(await ask(company, "third", oid="twice")) == "person"


async def test_a_sign_in_at_another_issuer_does_not_keep_a_person_from_being_linked(company: Company) -> None:
    person, deployment = await provision(company, "elsewhere"), company.place.deployment
    async with deployment.transaction() as transaction:
        await users.link_identity(transaction, issuer="https://i.example", subject="x", user_id=person.id, now=1)
    assert outcome_of(await ask(company, "fifth", oid="elsewhere")) == person.id


async def test_a_person_whom_the_directory_ended_is_not_linked(company: Company) -> None:
    deployment, person = company.place.deployment, await provision(company, "ended")
    async with deployment.transaction() as transaction:
        await users.disable_user(transaction, person.id, now=company.now())
    assert outcome_of(await ask(company, "fourth", oid="ended")) == "disabled"
    async with deployment.transaction() as transaction:
        await users.enable_user(transaction, person.id, now=company.now())
    assert outcome_of(await ask(company, "fourth", oid="ended")) == person.id


@pytest.mark.parametrize("kind", ["directory", "address"])
async def test_of_many_requests_at_once_one_links_and_all_find_the_same_person(company: Company, kind: str) -> None:
    key = secrets.token_hex(4)
    if kind == "directory":
        person, issuer, claims = await provision(company, key), "directed", {"oid": key}
    else:
        person, issuer = await company.place.user(f"{key}@acme.example"), "matching"
        claims = {"email": f"{key}@acme.example", "email_verified": True}
    answers = await asyncio.gather(*(ask(company, key, issuer=issuer, **claims) for _ in range(4)))
    assert {outcome_of(one) for one in answers} == {person.id}
    others = await asyncio.gather(*(ask(company, f"{key}-{at}", issuer=issuer, **claims) for at in range(2)))
    assert {outcome_of(one) for one in others} == {"linked"}


@pytest.mark.parametrize("kind", ["directory", "address"])
async def test_of_two_identities_at_once_one_gets_the_person(company: Company, kind: str) -> None:
    key = secrets.token_hex(4)
    if kind == "directory":
        person, issuer, claims = await provision(company, key), "directed", {"oid": key}
    else:
        person, issuer = await company.place.user(f"{key}@acme.example"), "matching"
        claims = {"email": f"{key}@acme.example", "email_verified": True}
    answers = await asyncio.gather(*(ask(company, f"{key}-{at}", issuer=issuer, **claims) for at in range(3)))
    assert sorted(outcome_of(one) for one in answers) == sorted([person.id, "linked", "linked"])


async def test_a_person_without_any_name_is_created_all_the_same(company: Company) -> None:
    person = outcome_of(await ask(company, secrets.token_hex(4), issuer="creating", name=" ", preferred_username=7))
    assert await users.get_user(company.place.deployment.database, person) is not None
