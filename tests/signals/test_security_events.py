"""Security events (RFC 8417, RFC 8935, SSF 1.0, CAEP 1.0, RISC 1.0): what each does, and every reason to refuse one."""

from __future__ import annotations

import hmac
from collections.abc import Callable

import pytest
from joserfc.jwk import ECKey, RSAKey

from server.provider_settings import SettingsRefused
from server.settings import load_settings
from tests.support.doubles.transmitter_double import CAEP, RISC, Claims, Transmitter
from tests.support.rooms.oauth_world import b64, sign_jwt
from tests.support.rooms.openid_room import begin, callback_of
from tests.support.rooms.signal_room import SCOPE, TOKEN, LinkedPerson, SignalRoom
from vault import users
from vault.records import Role

DISABLED, SESSION = f"{RISC}account-disabled", f"{CAEP}session-revoked"
OTHER = ECKey.generate_key("P-256", {"kid": "set-1"})


async def test_a_disabled_account_stops_agents_at_the_next_call_until_an_admin_enables_the_person(
    place: SignalRoom,
) -> None:
    person = await place.link_person()
    assert await place.can_call(person)
    assert await place.can_refresh(person)
    answer = await place.event(DISABLED, place.subject(person))
    assert (answer.status_code, answer.content) == (202, b""), answer.text
    assert not await place.can_call(person)
    assert not await place.can_refresh(person)
    assert not await place.is_signed_in(person)
    assert "signal.stopped" in await place.kinds(person)
    await place.sign_in_again(person)  # with a password for this vault, which proves nothing about the company account
    assert not await place.can_call(person)
    async with place.room.deployment.transaction() as transaction:
        assert await users.enable_user(transaction, person.user.id, now=place.room.deployment.now())
    assert await place.can_call(person), "the permission was never taken away"
    assert await place.can_refresh(person)


async def test_a_sign_in_where_the_signal_came_from_lets_stopped_agents_go_on(place: SignalRoom) -> None:
    person = await place.link_person()
    await place.event(DISABLED, place.subject(person))
    assert not await place.can_call(person)
    place.openid.subject = person.subject
    place.openid.change_claims = lambda claims: claims | {"iat": place.transmitter.now() - 30}
    try:
        page = await person.browser.open(await callback_of(await begin(person.browser)))
    finally:
        place.openid.change_claims = lambda claims: claims
    assert page.status_code == 200, page.text
    assert not await place.can_call(person), "that sign-in began before the signal"
    page = await person.browser.open(await callback_of(await begin(person.browser)))
    assert page.status_code == 200, page.text
    assert await place.can_call(person)
    assert "user.agents_resumed" in await place.kinds(person)


@pytest.mark.parametrize(
    ("kind", "signed_in", "called"),
    [
        (SESSION, False, True),
        (f"{RISC}sessions-revoked", False, True),
        (f"{CAEP}credential-change", False, True),
        (f"{RISC}credential-compromise", False, True),
        (f"{CAEP}token-claims-change", True, True),
        (f"{RISC}account-purged", False, False),
        (f"{RISC}account-enabled", True, True),
        ("https://company.example/its/own/type", True, True),
    ],
)
async def test_each_type_of_event_has_its_rule(place: SignalRoom, kind: str, signed_in: bool, called: bool) -> None:
    person, other = await place.link_person(), await place.link_person()
    assert (await place.event(kind, place.subject(person))).status_code == 202
    assert await place.is_signed_in(person) is signed_in
    assert await place.can_call(person) is called
    assert await place.is_signed_in(other)
    assert await place.can_call(other)


async def test_an_operator_can_let_a_disabled_account_be_disabled_here_but_never_the_last_admin(
    place: SignalRoom,
) -> None:
    person = await place.link_person()
    claims = place.claims(DISABLED, place.subject(person), name="strict")
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert (await place.push(place.transmitter.sign(claims), name="strict", **bearer)).status_code == 202
    found = await users.get_user(place.room.deployment.database, person.user.id)
    assert found is not None
    assert found.disabled_at is not None
    admin = await place.link_person(is_admin=True)
    alice = await place.room.user("alice")
    async with place.room.deployment.transaction() as transaction:
        await users.set_role(transaction, alice.id, Role.MEMBER)
    try:
        claims = place.claims(DISABLED, place.subject(admin), name="strict")
        assert (await place.push(place.transmitter.sign(claims), name="strict", **bearer)).status_code == 202
    finally:
        async with place.room.deployment.transaction() as transaction:
            await users.set_role(transaction, alice.id, Role.OWNER)
            await users.set_role(transaction, admin.user.id, Role.MEMBER)
    found = await users.get_user(place.room.deployment.database, admin.user.id)
    assert found is not None
    assert found.disabled_at is None
    assert not await place.can_call(admin), "stopped instead"


@pytest.mark.parametrize("claim", ["iat", "event_timestamp", "milliseconds", "toe"])
@pytest.mark.parametrize("begun", ["before", "after"])
async def test_a_late_event_ends_only_the_sessions_that_it_found(place: SignalRoom, claim: str, begun: str) -> None:
    now = place.room.deployment.now()
    person = await place.link_person()
    at = now - 600 if begun == "after" else now + 300
    content = {"event_timestamp": at * 1000 if claim == "milliseconds" else at}
    changes: Claims = {"events": {SESSION: {} if claim in {"iat", "toe"} else content}}
    if claim in {"iat", "toe"}:
        changes[claim] = min(at, now)
    assert (await place.event(SESSION, place.subject(person), **changes)).status_code == 202
    assert await place.is_signed_in(person) is (begun == "after")


@pytest.mark.parametrize("said", [True, "1", 0, -5, None, 10**20, [1]])
async def test_an_unusable_time_of_an_event_is_that_of_its_token(place: SignalRoom, said: object) -> None:
    person = await place.link_person()
    changes: Claims = {"events": {SESSION: {"event_timestamp": said}}}
    assert (await place.event(SESSION, place.subject(person), **changes)).status_code == 202
    assert not await place.is_signed_in(person)


@pytest.mark.parametrize("cleared", ["by a sign-in there", "by an admin", "earlier", "no"])
@pytest.mark.parametrize("name", ["company", "strict"])
async def test_a_late_event_stops_nobody_who_was_cleared_after_it(place: SignalRoom, cleared: str, name: str) -> None:
    person, now = await place.link_person(), place.room.deployment.now()
    is_cleared = cleared in {"by a sign-in there", "by an admin"}
    async with place.room.deployment.transaction() as transaction:
        if cleared == "by an admin":
            await users.disable_user(transaction, person.user.id, now=now - 900)
            await users.enable_user(transaction, person.user.id, now=now - 300)
        elif cleared != "no":
            at = now - (300 if is_cleared else 900)
            await users.note_sign_in(transaction, issuer=place.openid.url, subject=person.subject, at=at)
    if cleared == "by an admin":
        person.tokens = await place.room.vault.agent(await place.room.signed_in(person.user), scope=SCOPE, name="new")
    claims = place.claims(DISABLED, place.subject(person), name=name, events={DISABLED: {"event_timestamp": now - 600}})
    bearer = {"authorization": f"Bearer {TOKEN}"} if name == "strict" else {}
    assert (await place.push(place.transmitter.sign(claims), name=name, **bearer)).status_code == 202
    assert await place.can_call(person) is is_cleared
    assert ("signal.signed_out" in await place.kinds(person)) is is_cleared


async def test_a_token_counts_once(place: SignalRoom) -> None:
    person = await place.link_person()
    token = place.transmitter.sign(place.claims(SESSION, place.subject(person)))
    assert (await place.push(token)).status_code == 202
    await place.sign_in_again(person)
    assert (await place.push(token)).status_code == 202, "RFC 8935 §2.2: delivered again, and acknowledged again"
    assert await place.is_signed_in(person)
    assert (await place.kinds(person)).count("signal.signed_out") == 1
    assert (await place.event(SESSION, place.subject(person))).status_code == 202
    assert not await place.is_signed_in(person)


@pytest.fixture(scope="module")
async def target(place: SignalRoom) -> LinkedPerson:
    """The person that the forged events are about."""
    return await place.link_person()


Forged = Callable[[Transmitter, Claims], str]


def _hmac_of_the_public_key(transmitter: Transmitter, claims: Claims) -> str:
    head = {"alg": "HS256", "typ": "secevent+jwt", "kid": transmitter.key.kid}
    content = f"{b64(head)}.{b64(claims)}"
    return f"{content}.{b64(hmac.digest(transmitter.key.as_pem(private=False), content.encode(), 'sha256'))}"


def _with_claims(**changes: object) -> Forged:
    return lambda transmitter, claims: transmitter.sign(
        {name: value for name, value in (claims | changes).items() if value is not None}
    )


def _header(**changes: object) -> Forged:
    return lambda transmitter, claims: transmitter.sign(claims, **changes)


def _with_age(seconds: int) -> Forged:
    return lambda transmitter, claims: transmitter.sign(claims | {"iat": transmitter.now() - seconds})


HEAD: Claims = {"alg": "ES256", "typ": "secevent+jwt", "kid": "set-1"}
REFUSED: dict[str, tuple[Forged, str]] = {
    "an ID token's type": (_header(typ="JWT"), "invalid_request"),
    "an access token's type": (_header(typ="at+jwt"), "invalid_request"),
    "no type": (_header(typ=None), "invalid_request"),
    "no signature": (lambda t, c: f"{b64({'alg': 'none', 'typ': 'secevent+jwt'})}.{b64(c)}.", "invalid_key"),
    "an empty signature": (lambda t, c: t.sign(c).rpartition(".")[0] + ".AA", "invalid_key"),
    "a MAC under the public key": (_hmac_of_the_public_key, "invalid_key"),
    "somebody's key of the same name": (lambda t, c: sign_jwt(HEAD, c, OTHER), "invalid_key"),
    "somebody's key of another name": (lambda t, c: sign_jwt(HEAD | {"kid": "x"}, c, OTHER), "invalid_key"),
    "somebody's key without a name": (
        lambda t, c: sign_jwt({"alg": "ES256", "typ": "secevent+jwt"}, c, OTHER),
        "invalid_key",
    ),
    "a key of its own": (lambda t, c: sign_jwt(HEAD | {"jwk": OTHER.as_dict(private=False)}, c, OTHER), "invalid_key"),
    "keys elsewhere": (_header(jku="https://evil.example/jwks"), "invalid_key"),
    "a critical extension": (_header(crit=["exp"]), "invalid_key"),
    "another algorithm's key": (
        lambda t, c: sign_jwt(HEAD | {"alg": "RS256"}, c, RSAKey.generate_key(2048)),
        "invalid_key",
    ),
    "changed claims": (
        lambda t, c: f"{t.sign(c).split('.')[0]}.{b64(c | {'jti': 'another'})}.{t.sign(c).split('.')[2]}",
        "invalid_key",
    ),
    "another issuer": (_with_claims(iss="https://other.example"), "invalid_issuer"),
    "the issuer with a slash": (lambda t, c: t.sign(c | {"iss": f"{t.url}/"}), "invalid_issuer"),
    "no issuer": (_with_claims(iss=None), "invalid_issuer"),
    "another audience": (_with_claims(aud="https://other.example/signals"), "invalid_audience"),
    "other audiences": (_with_claims(aud=["https://other.example", "https://third.example"]), "invalid_audience"),
    "no audience": (_with_claims(aud=None), "invalid_audience"),
    "an end": (lambda t, c: t.sign(c | {"exp": t.now() + 600}), "invalid_request"),
    "a subject as ID tokens have it": (_with_claims(sub="alice"), "invalid_request"),
    "no id": (_with_claims(jti=None), "invalid_request"),
    "an id that is a number": (_with_claims(jti=7), "invalid_request"),
    "a long id": (_with_claims(jti="x" * 256), "invalid_request"),
    "no time": (_with_claims(iat=None), "invalid_request"),
    "a day and a minute old": (_with_age(86_460), "invalid_request"),
    "of the future": (_with_age(-120), "invalid_request"),
    "no events": (_with_claims(events=None), "invalid_request"),
    "empty events": (_with_claims(events={}), "invalid_request"),
    "a list of events": (_with_claims(events=[SESSION]), "invalid_request"),
    "an event that is a text": (_with_claims(events={SESSION: "now"}), "invalid_request"),
    "no token": (lambda t, c: "session revoked", "invalid_key"),
}


@pytest.mark.parametrize("reason", REFUSED)
async def test_each_forged_event_is_refused_and_changes_nothing(
    place: SignalRoom, target: LinkedPerson, reason: str
) -> None:
    claims = place.claims(SESSION, place.subject(target))
    forge, code = REFUSED[reason]
    answer = await place.push(forge(place.transmitter, claims))
    assert answer.status_code == 400, f"{reason}: {answer.status_code}"
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json()["err"] == code, answer.text
    assert answer.json()["description"]
    assert await place.is_signed_in(target)


async def test_the_same_claims_without_any_of_these_reasons_count(place: SignalRoom) -> None:
    person = await place.link_person()
    claims = place.claims(SESSION, place.subject(person))
    assert (await place.push(place.transmitter.sign(claims))).status_code == 202
    assert not await place.is_signed_in(person)


@pytest.mark.parametrize("claim", ["aud", "iat", "typ"])
async def test_what_is_allowed_beside_the_usual_form_counts(place: SignalRoom, claim: str) -> None:
    person = await place.link_person()
    claims = place.claims(SESSION, place.subject(person))
    header: Claims = {}
    if claim == "aud":
        claims["aud"] = ["https://other.example", claims["aud"]]
    elif claim == "iat":
        claims["iat"] = place.transmitter.now() - 86_000
    else:
        header["typ"] = "application/secevent+jwt"
    assert (await place.push(place.transmitter.sign(claims, **header))).status_code == 202
    assert "signal.signed_out" in await place.kinds(person)


async def test_the_transmitter_proves_itself_where_it_has_a_token(place: SignalRoom) -> None:
    person = await place.link_person()
    token = place.transmitter.sign(place.claims(SESSION, place.subject(person), name="strict"))
    for headers in ({}, {"authorization": "Bearer another"}, {"authorization": f"Basic {TOKEN}"}):
        answer = await place.push(token, name="strict", **headers)
        assert (answer.status_code, answer.json()["err"]) == (400, "authentication_failed")
        assert await place.is_signed_in(person)
    answer = await place.push(token, name="strict", authorization=f"Bearer {TOKEN}")
    assert answer.status_code == 202
    assert not await place.is_signed_in(person)


async def test_only_events_of_bounded_size_for_a_known_transmitter_are_read(place: SignalRoom) -> None:
    person = await place.link_person()
    token = place.transmitter.sign(place.claims(SESSION, place.subject(person)))
    assert (await place.push(token, name="nobody")).status_code == 404
    answer = await place.push(token, content_type="application/json")
    assert (answer.status_code, answer.json()["err"]) == (400, "invalid_request")
    answer = await place.push(b"x" * 70_000)
    assert answer.status_code == 413
    assert (await place.push("\u00e9".encode())).status_code == 400
    assert await place.is_signed_in(person)
    assert (await place.push(token)).status_code == 202
    assert not await place.is_signed_in(person)


async def test_events_beyond_the_transmitters_rate_are_to_be_sent_later(place: SignalRoom) -> None:
    person = await place.link_person()
    assert (await place.event(f"{CAEP}token-claims-change", place.subject(person), name="slow")).status_code == 202
    token = place.transmitter.sign(place.claims(SESSION, place.subject(person), name="slow"))
    answer = await place.push(token, name="slow")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert await place.is_signed_in(person)
    place.room.deployment.database.clock_offset += 120
    try:
        assert (await place.push(token, name="slow")).status_code == 202
    finally:
        place.room.deployment.database.clock_offset -= 120
    assert not await place.is_signed_in(person)


async def test_repeats_of_an_event_take_nothing_of_the_transmitters_rate(place: SignalRoom) -> None:
    """Whoever saw an event can send it again."""
    person = await place.link_person()
    place.room.deployment.database.clock_offset += 240
    try:
        seen = place.transmitter.sign(place.claims(f"{CAEP}token-claims-change", place.subject(person), name="slow"))
        assert (await place.push(seen, name="slow")).status_code == 202
        place.room.deployment.database.clock_offset += 120
        assert (await place.push(seen, name="slow")).status_code == 202
        assert (await place.event(SESSION, place.subject(person), name="slow")).status_code == 202
        assert (await place.event(SESSION, place.subject(person), name="slow")).status_code == 429
    finally:
        place.room.deployment.database.clock_offset -= 360
    assert not await place.is_signed_in(person)


async def test_a_person_is_found_by_every_identifier_that_the_company_can_vouch_for(place: SignalRoom) -> None:
    person, other = await place.link_person(email="carol@company.example"), await place.link_person()
    own = place.subject(person)
    email: Claims = {"format": "email", "email": "Carol@Company.example"}
    opaque: Claims = {"format": "opaque", "id": person.subject}
    by_name: list[Claims] = [
        own,
        email,
        opaque,
        {"format": "complex", "user": own, "session": {"format": "opaque", "id": "session-1"}},
        {"format": "aliases", "identifiers": [{"format": "phone_number", "phone_number": "+4930"}, email]},
    ]
    for subject in by_name:
        await place.sign_in_again(person)
        assert (await place.event(SESSION, subject)).status_code == 202
        assert not await place.is_signed_in(person), subject
    await place.sign_in_again(person)
    old = place.claims(SESSION, None, events={SESSION: {"subject": own}})  # as before SSF 1.0, in the event
    assert (await place.push(place.transmitter.sign(old))).status_code == 202
    assert not await place.is_signed_in(person)
    assert await place.is_signed_in(other)


async def test_what_names_nobody_for_sure_signs_nobody_out(place: SignalRoom) -> None:
    person, other = await place.link_person(email="dave@company.example"), await place.link_person()
    nobody: list[object] = [
        place.subject(person) | {"iss": "https://other.example"},
        place.subject(person) | {"sub": "nobody"},
        {"format": "email", "email": "eve@company.example"},
        {"format": "account", "uri": "acct:dave@company.example"},
        {"format": "aliases", "identifiers": [place.subject(person), place.subject(other)]},
        {"format": "complex", "session": {"format": "opaque", "id": person.subject}},
        {"format": "opaque", "id": person.user.id},
        "dave",
        None,
    ]
    for subject in nobody:
        assert (await place.event(DISABLED, subject)).status_code == 202, subject
        assert await place.can_call(person), subject
        assert await place.is_signed_in(other), subject
    assert "signal.unmatched" in await place.room.kinds()
    assert (await place.event(DISABLED, {"format": "email", "email": "dave@company.example"})).status_code == 202
    assert not await place.can_call(person)


async def test_an_address_belongs_to_whom_the_company_confirmed_it_for_last(place: SignalRoom) -> None:
    first, second = await place.link_person(email="team@company.example"), await place.link_person()
    place.openid.subject = second.subject
    place.openid.person = {"email": "Team@company.example", "email_verified": True}
    page = await second.browser.open(await callback_of(await begin(second.browser)))
    assert page.status_code == 200
    assert (await place.event(DISABLED, {"format": "email", "email": "team@company.example"})).status_code == 202
    assert await place.can_call(first)
    assert not await place.can_call(second)


async def test_while_keys_cannot_be_fetched_an_event_is_to_be_sent_again(place: SignalRoom) -> None:
    from server.signals import security_events
    from server.signatures import key_sets

    person = await place.link_person()
    token = place.transmitter.sign(place.claims(SESSION, place.subject(person)))
    http = place.room.deployment.http
    security_events._found.pop(http, None)
    key_sets._known.pop(http, None)
    place.transmitter.published = False
    try:
        answer = await place.push(token)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert await place.is_signed_in(person)
    finally:
        place.transmitter.published = True
    key_sets._known.pop(http, None)
    assert (await place.push(token)).status_code == 202
    assert not await place.is_signed_in(person)


async def test_a_verification_event_that_nobody_asked_for_is_acknowledged(place: SignalRoom) -> None:
    kind = "https://schemas.openid.net/secevent/ssf/event-type/verification"
    before = (await place.room.kinds()).count("signal.unmatched")
    answer = await place.event(kind, {"format": "opaque", "id": "stream-1"}, events={kind: {}})
    assert answer.status_code == 202
    assert (await place.room.kinds()).count("signal.unmatched") == before


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"issuer": "ftp://company.example"}, "https"),
        ({"issuer": "http://company.example"}, "https"),
        ({"issuer": "https://accounts.google.com/", "is_google": True}, "audiences"),
        ({"issuer": "https://company.example", "account_disabled": "delete"}, "note"),
        ({"issuer": "https://company.example", "poll_every": 1}, "5"),
    ],
)
def test_settings_that_could_not_work_are_refused(settings: dict[str, object], word: str) -> None:
    with pytest.raises(SettingsRefused, match=word):
        load_settings(overrides={"signals": {"transmitters": {"company": settings}}})
    right = {"issuer": "https://company.example"}
    assert load_settings(overrides={"signals": {"transmitters": {"company": right}}}).signals.transmitters
