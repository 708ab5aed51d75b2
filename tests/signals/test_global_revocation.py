"""Global Token Revocation (draft-parecki-oauth-global-token-revocation-06): its effect, its callers, its refusals."""

from __future__ import annotations

import secrets

import httpx2
import pytest
from starlette.requests import Request

from server.signals.push_delivery import is_bearer
from tests.support.doubles.transmitter_double import Claims
from tests.support.inspection import unstorable
from tests.support.rooms.signal_room import TOKEN, LinkedPerson, SignalRoom
from vault import connections
from vault.upstream import Account, TokenAnswer

PATH = "/global-token-revocation"


async def ask(place: SignalRoom, subject: object, *, token: str = TOKEN, member: str = "sub_id") -> httpx2.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return await place.http.post(PATH, json={member: subject}, headers=headers)


def own_jwt(place: SignalRoom, *, typ: str = "global-token-revocation+jwt", **changes: object) -> str:
    """The JWT that an identity provider signs for one request."""
    claims: Claims = {
        "iss": place.transmitter.url,
        "aud": place.room.url + PATH,
        "jti": secrets.token_urlsafe(12),
        "iat": place.transmitter.now(),
        "exp": place.transmitter.now() + 300,
    }
    return place.transmitter.sign({k: v for k, v in (claims | changes).items() if v is not None}, typ=typ)


async def can_still_act(place: SignalRoom, person: LinkedPerson) -> bool:
    return await place.can_call(person) or await place.is_signed_in(person)


async def test_all_tokens_end_and_the_person_signs_in_again_but_what_they_connected_stays(place: SignalRoom) -> None:
    person, other = await place.link_person(), await place.link_person()
    deployment = place.room.deployment
    answer = TokenAnswer("a", "r", scopes=frozenset({"chat:write"}), expires_in=60, account=Account("U1", "carol"))
    async with deployment.transaction() as transaction:
        await connections.open_connection(
            transaction,
            deployment.keys,
            user_id=person.user.id,
            provider="slack",
            answer=answer,
            asked=frozenset({"chat:write"}),
            policy=deployment.catalog.provider("slack").policy(),
            now=deployment.now(),
        )
    answered = await ask(place, place.subject(person))
    assert (answered.status_code, answered.content) == (204, b"")
    assert not await can_still_act(place, person)
    assert not await place.can_refresh(person)
    await place.sign_in_again(person)
    assert not await place.can_call(person), "the old tokens stay ended"
    person.tokens = await place.room.vault.agent(person.browser, name=person.user.name, scope="tools openid")
    assert await place.can_call(person)
    assert [one.label for one in await connections.list_connections(deployment.database, person.user.id)] == ["carol"]
    assert await place.can_call(other)
    assert "signal.revoked" in await place.kinds(person)


async def test_a_person_is_named_by_address_too_and_as_the_second_draft_writes_it(place: SignalRoom) -> None:
    person = await place.link_person(email="frank@company.example")
    subject: Claims = {"format": "email", "email": "frank@company.example"}
    assert (await ask(place, subject, member="subject")).status_code == 204
    assert not await can_still_act(place, person)


async def test_an_identity_provider_signs_each_request_as_okta_does(place: SignalRoom) -> None:
    person = await place.link_person()
    token = own_jwt(place)
    assert (await ask(place, place.subject(person), token=token)).status_code == 204
    assert not await can_still_act(place, person)
    assert (await ask(place, place.subject(person), token=token)).status_code == 401, "it counts once"


@pytest.mark.parametrize("kind", ["signal.revoked", "unrelated"])
async def test_a_request_that_could_not_be_carried_out_counts_when_it_is_repeated(place: SignalRoom, kind: str) -> None:
    person, token = await place.link_person(), own_jwt(place)
    async with unstorable(place.room.deployment.database, "events", "kind", kind, is_sqlite=True):
        answered = await ask(place, place.subject(person), token=token)
    if kind == "signal.revoked":
        assert answered.status_code >= 500
        assert await place.can_call(person)
        answered = await ask(place, place.subject(person), token=token)
    assert answered.status_code == 204
    assert not await can_still_act(place, person)
    assert (await ask(place, place.subject(person), token=token)).status_code == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"typ": "JWT"},
        {"typ": "secevent+jwt"},
        {"aud": "https://other.example/global-token-revocation"},
        {"aud": None},
        {"iss": "https://other.example"},
        {"exp": None},
        {"exp": 10},
        {"exp": 10**12},
        {"iat": None},
        {"jti": None},
    ],
)
async def test_a_token_that_was_not_signed_for_this_is_refused(place: SignalRoom, wrong: Claims) -> None:
    person = await place.link_person()
    answer = await ask(place, place.subject(person), token=own_jwt(place, **wrong))  # pyright: ignore
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert await place.can_call(person)
    assert (await ask(place, place.subject(person), token=own_jwt(place))).status_code == 204
    assert not await can_still_act(place, person)


@pytest.mark.parametrize("token", ["", "another", "a.b.c", "ü"])
async def test_nobody_else_may_ask(place: SignalRoom, token: str) -> None:
    person = await place.link_person()
    headers = {"authorization": f"Bearer {token}".encode()} if token else {}
    answer = await place.http.post(PATH, json={"sub_id": place.subject(person)}, headers=headers)
    assert answer.status_code == 401
    assert await place.can_call(person)
    assert (await ask(place, place.subject(person))).status_code == 204


@pytest.mark.parametrize(("expected", "is_same"), [("", False), ("right", True)])
def test_an_empty_token_is_nobodys(expected: str, is_same: bool) -> None:
    headers = [(b"authorization", f"Bearer {expected}".encode())]
    assert is_bearer(Request({"type": "http", "headers": headers}), expected) is is_same


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"format": "phone_number", "phone_number": "+4930"}, 400),
        ({"format": "iss_sub", "iss": "https://other.example"}, 404),
        ({"sub": "nobody"}, 404),
    ],
)
async def test_what_names_nobody_ends_nothing(place: SignalRoom, change: Claims, status: int) -> None:
    person = await place.link_person()
    assert (await ask(place, place.subject(person) | change)).status_code == status
    assert (await ask(place, "carol")).status_code == 400
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert (await place.http.post(PATH, content=b"{", headers=headers)).status_code == 400
    assert (await place.http.post(PATH, json={}, headers=headers)).status_code == 400
    assert await place.can_call(person)
    assert (await ask(place, place.subject(person))).status_code == 204


async def test_the_metadata_name_the_endpoint(place: SignalRoom) -> None:
    found = (await place.http.get("/.well-known/oauth-authorization-server")).json()
    assert found["global_token_revocation_endpoint"] == place.room.url + PATH


async def test_a_token_that_cannot_be_read_now_is_no_defect_and_shuts_nobody_else_out(
    place: SignalRoom,
) -> None:
    person = await place.link_person()
    file = place.room.deployment.settings.signals.transmitters["filed"].push_token_file
    assert file is not None
    event = place.transmitter.sign(
        place.claims(
            "https://schemas.openid.net/secevent/caep/event-type/token-claims-change",
            place.subject(person),
            name="filed",
        )
    )
    bearer = "Bearer a token in a file"
    away = file.rename(file.with_name("elsewhere"))
    try:
        pushed = await place.push(event, name="filed", authorization=bearer)
        asked = await ask(place, place.subject(person), token="a token in a file")
        assert (pushed.status_code, asked.status_code) == (503, 503), (pushed.text, asked.text)
        assert pushed.headers["retry-after"]
        assert asked.headers["retry-after"]
        assert (await ask(place, place.subject(person))).status_code == 204, "another's token counts"
    finally:
        away.rename(file)
    assert (await ask(place, place.subject(person), token="a token in a file")).status_code == 204
    assert (await place.push(event, name="filed", authorization=bearer)).status_code == 202
