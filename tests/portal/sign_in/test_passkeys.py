"""Passkeys over plain HTTP with a software authenticator: each check of WebAuthn, with an answer that passes it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.sign_in import passkeys as ceremonies
from server.sign_in.devices import describe_browser
from server.sign_in.passkeys import PasskeyRefused, encode, read_answer
from server.sign_in.password import OWNER_ISSUER, OWNER_SUBJECT
from tests.support.doubles.authenticator import ALL, FLAG, Authenticator, decode
from tests.support.harness import PASSWORD
from tests.support.person import Person, session_cookie, session_token
from tests.support.rooms.portal_room import Room, running_room
from tests.support.seeded_grant import SESSION_IDLE
from vault import users
from vault.records import Session, User
from vault.sign_in import passkeys, sessions

QUARTER = 900
ALL_OF_THEM, ADD, SIGN_IN = "/account/passkeys", "/account/passkeys/new", "/sign-in/passkey"


@pytest.fixture(scope="module")
async def shared_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Room]:
    overrides = {"sign_in": {"failures_per_address": 12}}  # enough for these tests, and soon reached
    async with running_room(tmp_path_factory.mktemp("passkeys"), overrides=overrides) as opened:
        yield opened


@pytest.fixture
async def room(shared_room: Room) -> AsyncGenerator[Room]:
    """Each test has its own rate windows, because time only moves forward."""
    shared_room.deployment.database.clock_offset += 10 * QUARTER
    yield shared_room


@dataclass
class Holder:
    """A person with a device."""

    room: Room
    user: User
    person: Person
    device: Authenticator

    async def add(self, *, name: str = "Phone", flags: FLAG = ALL) -> httpx2.Response:
        page = await self.person.open("/account")
        answer = self.device.create(options_of(page), flags=flags)
        return await self.person.submit(page, {"answer": answer, "name": name}, form=ADD)


async def holder(room: Room) -> Holder:
    user = await room.user()
    return Holder(room, user, await room.signed_in(user), Authenticator(room.url))


def options_of(page: httpx2.Response) -> str:
    """What the page would request from the browser."""
    found = re.search(r'data-options="([^"]*)"', page.text)
    assert found is not None, page.text
    return html.unescape(found[1])


async def submit_answer(person: Person, page: httpx2.Response, answer: str) -> httpx2.Response:
    return await person.submit(page, {"answer": answer}, form=SIGN_IN)


async def test_a_passkey_is_added_and_signs_in_without_a_name_or_a_password(room: Room) -> None:
    one = await holder(room)
    page = await one.add(name="My  phone")
    assert page.status_code == 200
    assert "Passkey added" in page.text
    assert "My phone" in page.text
    browser = await room.browser()
    page = await browser.open("/sign-in?return_to=/activity")
    assert json.loads(options_of(page))["allowCredentials"] == []
    page = await submit_answer(browser, page, one.device.get(options_of(page)))
    assert (page.status_code, page.url.path) == (200, "/activity")
    assert one.user.name in page.text
    assert await room.kinds(one.user) == ["session.started", "passkey.added", "session.started"]
    (held,) = await passkeys.list_passkeys(room.deployment.database, one.user.id)
    assert held.used_at is not None
    assert "Used" in (await browser.open("/account")).text


async def test_each_property_of_an_answer_counts(room: Room) -> None:
    """Presence and verification of the person, the domain, the origin, no foreign frame, the key, and the person."""
    one = await holder(room)
    await one.add()
    other = await holder(room)
    await other.add()
    browser, device = await room.browser(), one.device

    async def status(make: Callable[[Any], Any] | None = None, **changes: Any) -> int:
        page = await browser.open("/sign-in")
        answer = device.get(options_of(page), **changes) if make is None else make(options_of(page))
        return (await submit_answer(browser, page, answer)).status_code

    def of_another_key(options: str) -> str:
        wrong = Authenticator(room.url, [other.device.credentials[0]]).get(options)
        return json.dumps(json.loads(wrong) | {"id": encode(device.credentials[0].id)})

    def of_another_person(options: str) -> str:
        answer = json.loads(device.get(options))
        answer["response"]["userHandle"] = other.device.credentials[0].user
        return json.dumps(answer)

    elsewhere = Authenticator("https://evil.example", device.credentials)
    assert await status(flags=FLAG.UP) == 401, "nobody was verified"
    assert await status(flags=FLAG.UV) == 401, "nobody was there"
    assert await status(rp_id="evil.example") == 401
    assert await status(elsewhere.get) == 401
    assert await status(cross_origin=True) == 401
    assert await status(of_another_key) == 401
    assert (await room.events())[-1].details["reason"] == "signature"
    assert await status(of_another_person) == 401
    assert await status(lambda _: "{}") == 401
    assert await status(lambda options: json.dumps(json.loads(device.get(options)) | {"id": "A"})) == 401, "no base64"
    assert await status() == 200


async def test_a_challenge_counts_once_in_the_browser_that_got_it_and_not_for_ever(room: Room) -> None:
    one = await holder(room)
    await one.add()
    browser, thief = await room.browser(), await room.browser()
    page = await browser.open("/sign-in")
    answer = one.device.get(options_of(page))
    assert (await submit_answer(thief, await thief.open("/sign-in"), answer)).status_code == 401
    assert (await submit_answer(browser, page, answer)).status_code == 200
    again = await browser.open("/sign-in?again=1")
    assert (await submit_answer(browser, again, answer)).status_code == 401, "another session, and a used challenge"
    late = await room.browser()
    page = await late.open("/sign-in")
    options = options_of(page)
    room.deployment.database.clock_offset += ceremonies.CHALLENGE_LIFETIME
    refused = await submit_answer(late, page, one.device.get(options))
    assert refused.status_code == 401
    assert "out of date" in refused.text
    assert (await submit_answer(late, refused, one.device.get(options_of(refused)))).status_code == 200


async def test_one_answer_sent_twice_at_once_signs_in_once(room: Room) -> None:
    one = await holder(room)
    await one.add()
    secret = "s" * 43
    answer = read_answer(one.device.get(ceremonies.signing_in_options(room.deployment, secret=secret)))
    results = [await _try(room, answer, secret) for _ in range(2)]
    assert results == [True, False]
    fresh = read_answer(one.device.get(ceremonies.signing_in_options(room.deployment, secret=secret)))
    assert await _try(room, fresh, secret)


async def _try(room: Room, answer: ceremonies.Answer, secret: str) -> bool:
    try:
        await ceremonies.check_sign_in(room.deployment, answer=answer, secret=secret, address="192.0.2.1")
    except PasskeyRefused:
        return False
    return True


async def test_a_copy_of_a_passkey_is_noticed_by_its_counter(room: Room) -> None:
    one = await holder(room)
    await one.add()
    browser = await room.browser()

    async def use(count: int) -> httpx2.Response:
        page = await browser.open("/sign-in?again=1")
        one.device.credentials[0].count = count
        return await submit_answer(browser, page, one.device.get(options_of(page)))

    assert (await use(7)).status_code == 200
    copied = await use(7)
    assert copied.status_code == 401
    assert "it may be a copy" in copied.text
    events = await room.events(one.user)
    assert (events[-1].kind, events[-1].details["reason"]) == ("session.refused", "counter")
    assert (await use(8)).status_code == 200


async def test_a_disabled_person_and_a_removed_passkey_let_nobody_in(room: Room) -> None:
    one = await holder(room)
    await one.add()
    await one.add(name="Spare")
    browser = await room.browser()

    async def status(which: int) -> int:
        page = await browser.open("/sign-in?again=1")
        return (await submit_answer(browser, page, one.device.get(options_of(page), which=which))).status_code

    assert await status(0) == 200
    page = await one.person.open("/account")
    held = await passkeys.list_passkeys(room.deployment.database, one.user.id)
    first = next(each for each in held if each.name == "Phone")
    page = await one.person.submit(page, form=f"{ALL_OF_THEM}/{first.id}/remove")
    assert "Passkey removed" in page.text
    assert await status(0) == 401
    assert await status(1) == 200
    async with room.deployment.transaction() as transaction:
        await users.disable_user(transaction, one.user.id, now=room.deployment.now())
    assert await status(1) == 401
    async with room.deployment.transaction() as transaction:
        await users.enable_user(transaction, one.user.id, now=room.deployment.now())
    assert await status(1) == 200


async def test_wrong_answers_are_throttled_as_wrong_passwords_are(room: Room) -> None:
    one = await holder(room)
    await one.add()
    browser = await room.browser()
    limit = room.vault.settings.sign_in.failures_per_address

    async def status(flags: FLAG) -> int:
        page = await browser.open("/sign-in")
        return (await submit_answer(browser, page, one.device.get(options_of(page), flags=flags))).status_code

    statuses = [await status(FLAG.UP) for _ in range(limit + 1)]
    assert statuses == [401] * limit + [429]
    assert await status(ALL) == 429
    room.deployment.database.clock_offset += 2 * QUARTER
    assert await status(ALL) == 200


async def test_a_passkey_that_verifies_nobody_is_not_added(room: Room) -> None:
    one = await holder(room)
    refused = await one.add(flags=FLAG.UP)
    assert refused.status_code == 400
    assert "fingerprint, face, or PIN" in refused.text
    assert await passkeys.list_passkeys(room.deployment.database, one.user.id) == ()
    assert (await one.add()).status_code == 200


async def test_a_credential_has_one_owner(room: Room) -> None:
    one, other = await holder(room), await holder(room)
    await one.add()
    page = await other.person.open("/account")
    mine = json.loads(other.device.create(options_of(page)))
    other.device.credentials[0].id = one.device.credentials[0].id
    page = await other.person.open("/account")
    copied = Authenticator(room.url)
    answer = json.loads(copied.create(options_of(page)))
    raw = decode(answer["response"]["attestationObject"])
    assert copied.credentials[0].id in raw
    raw = raw.replace(copied.credentials[0].id, one.device.credentials[0].id)
    answer["id"], answer["response"]["attestationObject"] = encode(one.device.credentials[0].id), encode(raw)
    refused = await other.person.submit(page, {"answer": json.dumps(answer)}, form=ADD)
    assert refused.status_code == 409
    assert "already in use" in refused.text
    assert mine["id"] != answer["id"]
    assert (await other.add()).status_code == 200


async def test_changing_passkeys_needs_a_recent_sign_in(room: Room) -> None:
    one = await holder(room)
    fresh = await one.person.open("/account")
    options = options_of(fresh)
    room.deployment.database.clock_offset += room.vault.settings.sign_in.recent_lifetime
    stale = await one.person.open("/account")
    assert "data-options" not in stale.text, "the browser must not make a passkey that is refused afterwards"
    assert "/sign-in?again=1&amp;return_to=%2Faccount" in stale.text
    refused = await one.person.submit(fresh, {"answer": one.device.create(options)}, form=ADD)
    assert refused.status_code == 403
    assert "Sign in again" in refused.text
    page = await one.person.open("/sign-in?again=1&return_to=/account")
    page = await one.person.sign_in(one.user.name, PASSWORD, page=page)
    assert page.url.path == "/account"
    assert (await one.add()).status_code == 200


async def test_the_only_way_to_sign_in_is_not_removed(room: Room) -> None:
    one = await holder(room)
    await one.add()
    page = await one.person.open("/account")
    (only,) = await passkeys.list_passkeys(room.deployment.database, one.user.id)
    async with room.deployment.transaction() as transaction:
        await transaction.execute("update users set password_hash = null where id = :id", {"id": one.user.id})
        mark = {"issuer": OWNER_ISSUER, "subject": OWNER_SUBJECT}  # nobody signs in with it
        await users.link_identity(transaction, **mark, user_id=one.user.id, now=room.deployment.now())
    refused = await one.person.submit(page, form=f"{ALL_OF_THEM}/{only.id}/remove")
    assert refused.status_code == 409
    assert "This passkey is your only way to sign in" in refused.text
    await one.add(name="Spare")
    page = await one.person.open("/account")
    assert "Passkey removed" in (await one.person.submit(page, form=f"{ALL_OF_THEM}/{only.id}/remove")).text
    (spare,) = await passkeys.list_passkeys(room.deployment.database, one.user.id)
    async with room.deployment.transaction() as transaction:
        identity = {"issuer": "https://id.example", "subject": "42"}
        await users.link_identity(transaction, **identity, user_id=one.user.id, now=room.deployment.now())
    page = await one.person.open("/account")
    assert "Passkey removed" in (await one.person.submit(page, form=f"{ALL_OF_THEM}/{spare.id}/remove")).text


async def test_a_person_renames_their_own_passkeys_only(room: Room) -> None:
    one, other = await holder(room), await holder(room)
    await one.add()
    (mine,) = await passkeys.list_passkeys(room.deployment.database, one.user.id)
    page = await one.person.open("/account")
    assert "Blue key" in (await one.person.submit(page, {"name": "Blue key"}, form=f"{ALL_OF_THEM}/{mine.id}")).text
    assert "x" * 60 in (await one.person.submit(page, {"name": "x" * 60}, form=f"{ALL_OF_THEM}/{mine.id}")).text
    for name in ("x" * 61, "a\u202eb"):
        assert (await one.person.submit(page, {"name": name}, form=f"{ALL_OF_THEM}/{mine.id}")).status_code == 400
    await other.add()
    theirs = await other.person.open("/account")
    text = theirs.text.replace((await passkeys.list_passkeys(room.deployment.database, other.user.id))[0].id, mine.id)
    stolen = httpx2.Response(200, text=text, request=theirs.request)
    assert (await other.person.submit(stolen, {"name": "Mine"}, form=f"{ALL_OF_THEM}/{mine.id}")).status_code == 403


async def test_signing_in_with_a_passkey_makes_a_new_session(room: Room) -> None:
    one = await holder(room)
    await one.add()
    before = session_cookie(one.person.http)
    page = await one.person.open("/sign-in?again=1")
    assert (await submit_answer(one.person, page, one.device.get(options_of(page)))).status_code == 200
    assert session_cookie(one.person.http) != before
    old = await (await room.browser()).http.get("/connections", headers={"cookie": before})
    assert old.status_code == 303


async def test_confirming_with_somebody_elses_passkey_is_refused(room: Room) -> None:
    one, other = await holder(room), await holder(room)
    await other.add()
    await one.add()
    page = await one.person.open("/sign-in?again=1")
    refused = await submit_answer(one.person, page, other.device.get(options_of(page)))
    assert refused.status_code == 401
    assert "belongs to another account" in refused.text
    page = await one.person.open("/sign-in?again=1")
    assert (await submit_answer(one.person, page, one.device.get(options_of(page)))).status_code == 200


async def test_a_vault_at_an_address_without_a_name_says_what_to_do(room: Room) -> None:
    settings_ = room.deployment.settings
    address = settings_.model_copy(
        update={"server": settings_.server.model_copy(update={"public_url": "http://127.0.0.1:8765"})}
    )
    assert ceremonies.rp_id(room.deployment) == "localhost"
    numbered = replace(room.deployment, settings=address)
    assert ceremonies.rp_id(numbered) is None
    with pytest.raises(PasskeyRefused, match=r"set server\.public_url to a name"):
        ceremonies.signing_in_options(numbered, secret="s" * 43)


async def test_where_people_sign_in_at_their_company_a_passkey_confirms_and_lets_nobody_in(room: Room) -> None:
    one = await holder(room)
    await one.add()
    sign_in = room.deployment.settings.sign_in
    outside = await room.browser()
    page = await outside.open("/sign-in")
    confirming = await one.person.open("/sign-in?again=1")
    object.__setattr__(sign_in, "local", False)
    try:
        assert "data-options" not in (await outside.open("/sign-in")).text
        refused = await submit_answer(outside, page, one.device.get(options_of(page)))
        assert refused.status_code == 403
        before = await signin_session(room, one.person)
        room.deployment.database.clock_offset += 600
        assert (await submit_answer(one.person, confirming, one.device.get(options_of(confirming)))).status_code == 200
        assert (await signin_session(room, one.person)).expires_at == before.expires_at
    finally:
        object.__setattr__(sign_in, "local", True)
    page = await outside.open("/sign-in")
    assert (await submit_answer(outside, page, one.device.get(options_of(page)))).status_code == 200


async def signin_session(room: Room, person: Person) -> Session:
    found = await sessions.find_session(
        room.deployment.database, session_token(person.http), now=room.deployment.now(), idle_lifetime=SESSION_IDLE
    )
    assert found is not None
    return found[0]


async def test_a_key_without_its_curve_is_refused(room: Room) -> None:
    """py_webauthn raises KeyError for it."""
    one = await holder(room)
    page = await one.person.open("/account")
    answer = json.loads(one.device.create(options_of(page)))
    raw, curve = decode(answer["response"]["attestationObject"]), b"\x20\x01\x21"  # COSE label -1, P-256, label -2
    assert raw.count(curve) == 1
    answer["response"]["attestationObject"] = encode(raw.replace(curve, b"\x24\x01\x21"))
    refused = await one.person.submit(page, {"answer": json.dumps(answer)}, form=ADD)
    assert refused.status_code == 400
    assert "This passkey can't be used here" in html.unescape(refused.text)
    assert (await one.add()).status_code == 200


@st.composite
def damages(draw: st.DrawFn) -> Callable[[str], str]:
    """Change bytes of an answer's parts, shorten them, or damage the passkey's ID."""
    changes = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=3)
    parts = ("attestationObject", "authenticatorData", "signature", "clientDataJSON", "userHandle")
    wanted = {name: draw(changes) for name in draw(st.sets(st.sampled_from(parts), max_size=2))}
    cut, new_id = draw(st.none() | st.sampled_from(parts)), draw(st.none() | st.text("Az0-_", min_size=1, max_size=9))

    def damage(text: str) -> str:
        answer = json.loads(text)
        for name, value in answer["response"].items():
            raw = bytearray(decode(value))
            for at, byte in wanted.get(name, ()):
                raw[at % len(raw)] = byte
            answer["response"][name] = encode(bytes(raw[: len(raw) // 2] if name == cut else raw))
        return json.dumps(answer if new_id is None else answer | {"id": new_id})

    return damage


@settings(max_examples=40, database=None)
@given(damages())
async def test_no_answer_however_broken_is_more_than_refused(shared_room: Room, damage: Callable[[str], str]) -> None:
    """py_webauthn reads what strangers send: whatever it raises must become a refusal."""
    shared_room.deployment.database.clock_offset += 10 * QUARTER
    one = await holder(shared_room)
    page = await one.person.open("/account")
    broken = damage(one.device.create(options_of(page)))
    added = await one.person.submit(page, {"answer": broken, "name": "Phone"}, form=ADD)
    assert added.status_code < 500, added.text
    held = await passkeys.list_passkeys(shared_room.deployment.database, one.user.id)
    assert len(held) == int(added.status_code == 200 and "Passkey added" in added.text)

    other, browser = await holder(shared_room), await shared_room.browser()
    assert (await other.add()).status_code == 200
    page = await browser.open("/sign-in")
    signed_in = await submit_answer(browser, page, damage(other.device.get(options_of(page))))
    assert signed_in.status_code < 500, signed_in.text
    assert ((await browser.open("/activity")).url.path == "/activity") == (signed_in.status_code == 200)
    again = await browser.open("/sign-in?again=1")
    assert (await submit_answer(browser, again, other.device.get(options_of(again)))).status_code == 200  # the twin


@pytest.mark.parametrize(
    ("user_agent", "words"),
    [
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Chrome/141.0 Safari/537.36",
            "Chrome on macOS",
        ),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/141.0 Safari/537.36 Edg/141.0",
            "Edge on Windows",
        ),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0", "Firefox on Linux"),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1",
            "Safari on iPhone",
        ),
        ("Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 Chrome/141.0 Mobile Safari/537.36", "Chrome on Android"),
        ("<script>alert(1)</script>", "Unknown browser"),
        ("", "Unknown browser"),
    ],
)
def test_a_browser_is_described_in_words_of_ours(user_agent: str, words: str) -> None:
    assert describe_browser(user_agent) == words
