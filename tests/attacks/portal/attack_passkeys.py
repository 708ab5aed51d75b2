"""Passkeys over plain HTTP: answers repeated, moved, tampered with, or from someone else's device; others' passkeys."""

from __future__ import annotations

import asyncio
import html
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import httpx2
import pytest

from tests.attacks.administration.attack_administration import someone
from tests.attacks.portal.attack_people import form_of, send
from tests.attacks.target import Target
from tests.support.doubles.authenticator import FLAG, Authenticator, Credential, decode, encode
from tests.support.person import Form, Person, forms_of

ADD, SIGN_IN = "/account/passkeys/new", "/sign-in/passkey"


@dataclass
class Holder:
    """A person with a device."""

    user_id: str
    person: Person
    device: Authenticator


def options_of(page: httpx2.Response) -> str:
    """The options that the page passes to the browser."""
    found = re.search(r'data-options="([^"]*)"', page.text)
    assert found is not None, page.text[:300]
    return html.unescape(found[1])


async def add(target: Target, one: Holder, answer: str | None = None) -> httpx2.Response:
    page = await one.person.open("/account")
    made = one.device.create(options_of(page)) if answer is None else answer
    return await send(target, one.person, form_of(page, ADD), answer=made, name="Phone")


async def holder(target: Target, *, adds: bool = True) -> Holder:
    user_id, person = await someone(target)
    one = Holder(user_id, person, Authenticator(target.url))
    if adds:
        assert (await add(target, one)).status_code == 303
    return one


async def removal_form(one: Holder) -> Form:
    """The form that removes the person's passkey."""
    page = await one.person.open("/account")
    return next(form for form in forms_of(page.text) if form.action.endswith("/remove"))


async def open_sign_in(target: Target) -> tuple[Person, httpx2.Response]:
    """Open the sign-in page in a new browser."""
    person = await target.browser()
    return person, await person.open("/sign-in")


async def signs_in(target: Target, person: Person, page: httpx2.Response, answer: str) -> bool:
    """Whether the answer signed this browser in."""
    said = await send(target, person, form_of(page, SIGN_IN), answer=answer)
    assert said.status_code < 500, said.text[:300]
    return (await person.http.get("/account")).status_code == 200


async def test_an_honest_answer_signs_in(target: Target) -> None:
    """The twin of the attacks below."""
    one = await holder(target)
    person, page = await open_sign_in(target)
    assert await signs_in(target, person, page, one.device.get(options_of(page)))
    assert one.user_id in (await person.http.get("/account/data")).text


async def test_an_answer_counts_once_of_eight_at_the_same_time_and_never_again(target: Target) -> None:
    one = await holder(target)
    person, page = await open_sign_in(target)
    answer, form = one.device.get(options_of(page)), form_of(page, SIGN_IN)
    said = await asyncio.gather(*(send(target, person, form, answer=answer) for _ in range(8)))
    assert [each.status_code for each in said].count(303) == 1
    await send(target, person, form_of(await person.open("/account"), "/sign-out"))
    assert not await signs_in(target, person, page, answer)


async def test_an_answer_to_another_browsers_page_signs_nobody_in(target: Target) -> None:
    one = await holder(target)
    (_, theirs), (person, page) = await open_sign_in(target), await open_sign_in(target)
    assert not await signs_in(target, person, page, one.device.get(options_of(theirs)))


def bent(change: Callable[[dict[str, object]], object]) -> Callable[[Holder, str], str]:
    """The honest answer, with its JSON changed after signing."""

    def make(one: Holder, options: str) -> str:
        answer = json.loads(one.device.get(options))
        change(answer)
        return json.dumps(answer)

    return make


def client_data(answer: dict[str, object], **changes: object) -> None:
    response = answer["response"]
    assert isinstance(response, dict)
    facts = json.loads(decode(str(response["clientDataJSON"]))) | changes
    response["clientDataJSON"] = encode(json.dumps(facts).encode())


def response_of(answer: dict[str, object], **changes: object) -> None:
    response = answer["response"]
    assert isinstance(response, dict)
    response.update(changes)


def with_origin(origin: str) -> Callable[[Holder, str], str]:
    def make(one: Holder, options: str) -> str:
        one.device.origin = origin
        return one.device.get(options)

    return make


def with_challenge(challenge: str) -> Callable[[Holder, str], str]:
    return lambda one, options: one.device.get(json.dumps(json.loads(options) | {"challenge": challenge}))


def by_another_key(one: Holder, options: str) -> str:
    """Someone else's device that claims to have this credential."""
    from cryptography.hazmat.primitives.asymmetric import ec

    known = one.device.credentials[-1]
    forged = Credential(ec.generate_private_key(ec.SECP256R1()), known.user, known.id)
    return Authenticator(one.device.origin, [forged]).get(options)


HONEST_BUT: dict[str, Callable[[Holder, str], str]] = {
    "without the person's finger": lambda one, options: one.device.get(options, flags=FLAG.UP),
    "without anybody": lambda one, options: one.device.get(options, flags=FLAG.UV),
    "for another domain": lambda one, options: one.device.get(options, rp_id="evil.example"),
    "for a part of our domain": lambda one, options: one.device.get(options, rp_id="host"),
    "from a cross-origin frame": lambda one, options: one.device.get(options, cross_origin=True),
    "from another site": with_origin("https://evil.example"),
    "from another port": with_origin("http://localhost:1"),
    "from our site over https": with_origin("https://localhost"),
    "from a site that begins like ours": with_origin("http://localhost.evil.example"),
    "to a challenge of its own": with_challenge(encode(secrets.token_bytes(56))),
    "to no challenge": with_challenge(""),
    "to a challenge of zeros": with_challenge(encode(bytes(56))),
    "by another key": by_another_key,
    "with another user handle": bent(lambda answer: response_of(answer, userHandle=encode(b"somebody"))),
    "with a cut signature": bent(lambda answer: response_of(answer, signature="MEUCIQ")),
    "with an empty signature": bent(lambda answer: response_of(answer, signature="")),
    "with the origin changed afterwards": bent(lambda answer: client_data(answer, origin="http://localhost")),
    "with another type of client data": bent(lambda answer: client_data(answer, type="webauthn.create")),
    "with another credential id": bent(lambda answer: answer.update(id=encode(secrets.token_bytes(32)))),
    "with an empty credential id": bent(lambda answer: answer.update(id="")),
    "with a huge credential id": bent(lambda answer: answer.update(id="A" * 1400)),
    "with a list for a response": bent(lambda answer: answer.update(response=[])),
    "with authenticator data of nothing": bent(lambda answer: response_of(answer, authenticatorData="")),
    "with authenticator data of 37 zeros": bent(
        lambda answer: response_of(answer, authenticatorData=encode(bytes(37)))
    ),
}


@pytest.mark.parametrize("what", HONEST_BUT)
async def test_an_answer_is_refused_when_it_comes(target: Target, what: str) -> None:
    one = await holder(target)
    person, page = await open_sign_in(target)
    assert not await signs_in(target, person, page, HONEST_BUT[what](one, options_of(page)))


NONSENSE = ("", "x", "null", "[]", "{}", '{"id":1}', "\x00", "{" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, "9" * 17000)


@pytest.mark.parametrize("answer", NONSENSE, ids=lambda one: one[:8] or "empty")
@pytest.mark.parametrize("where", [ADD, SIGN_IN])
async def test_what_is_no_answer_is_refused_in_words(target: Target, where: str, answer: str) -> None:
    if where == ADD:
        one = await holder(target, adds=False)
        said = await add(target, one, answer)
        assert 400 <= said.status_code < 500, said.status_code
        assert "Phone" not in (await one.person.open("/account")).text.replace("value", "")
    else:
        person, page = await open_sign_in(target)
        assert not await signs_in(target, person, page, answer)


async def test_the_answer_that_adds_signs_nobody_in_and_the_other_way_round(target: Target) -> None:
    one = await holder(target)
    person, page = await open_sign_in(target)
    to_add = options_of(await one.person.open("/account"))
    assert not await signs_in(
        target, person, page, one.device.get(json.dumps({**json.loads(to_add), "rpId": "localhost"}))
    )
    made = Authenticator(target.url)
    crossed = json.loads(to_add) | {"challenge": json.loads(options_of((await open_sign_in(target))[1]))["challenge"]}
    assert (await add(target, one, made.create(json.dumps(crossed)))).status_code == 400


async def test_a_new_passkey_is_added_for_the_person_who_was_asked_only(target: Target) -> None:
    one, thief = await holder(target, adds=False), await holder(target, adds=False)
    theirs = options_of(await one.person.open("/account"))
    assert (await add(target, thief, thief.device.create(theirs))).status_code == 400
    person, page = await open_sign_in(target)
    assert not await signs_in(target, person, page, thief.device.get(options_of(page)))


async def test_a_credential_belongs_to_the_first_who_added_it(target: Target) -> None:
    """The second person's device claims the first person's credential."""
    one, thief = await holder(target), await holder(target, adds=False)
    page = await thief.person.open("/account")
    answer = json.loads(thief.device.create(options_of(page)))
    thief.device.credentials[-1].id = one.device.credentials[-1].id
    answer["id"] = encode(one.device.credentials[-1].id)
    await send(target, thief.person, form_of(page, ADD), answer=json.dumps(answer), name="x")
    person, page = await open_sign_in(target)
    assert not await signs_in(target, person, page, thief.device.get(options_of(page)))
    person, page = await open_sign_in(target)
    assert await signs_in(target, person, page, one.device.get(options_of(page)))
    assert one.user_id in (await person.http.get("/account/data")).text


@pytest.mark.parametrize("what", ["", "/remove"])
async def test_somebody_elses_passkey_is_neither_renamed_nor_removed(target: Target, what: str) -> None:
    one, thief = await holder(target), await holder(target)
    theirs, own = await removal_form(one), await removal_form(thief)
    path = theirs.action.removesuffix("/remove") + what
    for token in (dict(own.fields)["form_token"], dict(theirs.fields)["form_token"], ""):
        data = {"form_token": token, "name": "stolen"}
        answer = await thief.person.http.post(path, data=data, headers={"origin": target.url})
        assert answer.status_code in {403, 404}
    person, page = await open_sign_in(target)
    assert await signs_in(target, person, page, one.device.get(options_of(page)))
    assert "stolen" not in (await one.person.open("/account")).text


async def test_a_removed_passkey_signs_nobody_in(target: Target) -> None:
    one = await holder(target)
    person, page = await open_sign_in(target)
    answer = one.device.get(options_of(page))
    assert (await send(target, one.person, await removal_form(one))).status_code == 303
    assert not await signs_in(target, person, page, answer)


async def test_a_counter_that_goes_back_is_a_copy(target: Target) -> None:
    one = await holder(target)
    for _ in range(2):
        person, page = await open_sign_in(target)
        assert await signs_in(target, person, page, one.device.get(options_of(page), counts=True))
    one.device.credentials[-1].count = 1  # the count of a copy of the device from before the last use
    person, page = await open_sign_in(target)
    assert not await signs_in(target, person, page, one.device.get(options_of(page)))


async def test_a_disabled_person_is_not_let_in(target: Target) -> None:
    one = await holder(target)
    name = next(
        each["name"]
        for each in json.loads(await target.command("users", "list", "--json"))
        if each["id"] == one.user_id
    )
    await target.command("users", "disable", name)
    person, page = await open_sign_in(target)
    assert not await signs_in(target, person, page, one.device.get(options_of(page)))


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_a_foreign_page_adds_no_passkey(target: Target, origin: str) -> None:
    one = await holder(target, adds=False)
    page = await one.person.open("/account")
    data = dict(form_of(page, ADD).fields) | {"answer": one.device.create(options_of(page)), "name": "x"}
    headers = {"origin": origin, "sec-fetch-site": "cross-site"}
    assert (await one.person.http.post(ADD, data=data, headers=headers)).status_code == 403
    answer = await one.person.http.post(ADD, data=data, headers={"origin": target.url})  # the twin
    assert answer.status_code == 303


@pytest.mark.parametrize("wanted", ["https://evil.example/", "//evil.example", "/\\evil.example", "/%2f/evil.example"])
async def test_a_passkey_leads_back_to_our_own_pages_only(target: Target, wanted: str) -> None:
    one = await holder(target)
    person, page = await open_sign_in(target)
    form, answer = form_of(page, SIGN_IN), one.device.get(options_of(page))
    said = await send(target, person, form, answer=answer, return_to=wanted)
    assert said.status_code == 303
    assert said.headers["location"] == "/"


@pytest.mark.parametrize("name", ["<b>x</b>", "a\r\nb", "\u202ex", "x" * 61])
async def test_the_name_of_a_passkey_is_shown_as_it_is_or_refused(target: Target, name: str) -> None:
    one = await holder(target, adds=False)
    page = await one.person.open("/account")
    answer = one.device.create(options_of(page))
    said = await send(target, one.person, form_of(page, ADD), answer=answer, name=name)
    assert said.status_code in {303, 400}
    shown = (await one.person.open("/account")).text
    assert "<b>x</b>" not in shown
    assert "\u202e" not in shown
