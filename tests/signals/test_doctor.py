"""`doctor` and `explain` know why a signal can't have an effect, and which setting to change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from server.doctor.findings import Verdict
from server.doctor.signals import check_people_and_endpoints, check_signals
from server.settings import load_settings
from tests.support.doubles.transmitter_double import RISC
from tests.support.rooms.signal_room import SignalRoom
from vault import users
from vault.exchange.explain import ExchangeQuestion, explain
from vault.notices import channels, endpoints


async def check_settings(place: SignalRoom, **signals: object) -> list[tuple[Verdict, str]]:
    """What the doctor finds with these settings, in the order of verdicts."""
    settings = load_settings(overrides={"signals": signals, "sandbox": {"loopback_openid": True}})
    found = await check_signals(replace(place.room.deployment, settings=settings))
    return sorted((one.verdict, f"{one.sentence}; {one.fix}") for one in found if one.verdict is not Verdict.OK)


async def test_a_transmitter_in_order_is_fine(place: SignalRoom) -> None:
    await place.link_person()
    found = await check_signals(place.room.deployment)
    about = [one for one in found if "company" in one.sentence]
    assert [one.verdict for one in about if one.verdict is Verdict.PROBLEM] == []
    assert await check_people_and_endpoints(place.room.deployment) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"issuer": "http://127.0.0.1:1"}, "no metadata"),
        ({"jwks_uri": "http://127.0.0.1:1/jwks"}, "no usable key"),
        ({"push_token_file": "/nonexistent/token"}, "can't read"),
        ({"provider": "nowhere"}, "isn't a provider here"),
    ],
)
async def test_what_is_wrong_with_a_transmitter_is_named(
    place: SignalRoom, changes: dict[str, object], word: str
) -> None:
    right: dict[str, object] = {"issuer": place.transmitter.url}
    found = await check_settings(place, transmitters={"company": right | changes})
    assert any(verdict is Verdict.PROBLEM and word in text for verdict, text in found), found
    found = await check_settings(place, transmitters={"company": right})
    assert not any(verdict is Verdict.PROBLEM for verdict, _ in found), found
    assert any("no sign-in uses" in text for _, text in found), "a note"


async def test_webhooks_of_providers_that_cannot_work_are_named(place: SignalRoom) -> None:
    found = await check_settings(place, providers={"dropbox": {"secret": "x"}, "square": {"secret": "x"}})
    assert [verdict for verdict, _ in found] == [Verdict.NOTE, Verdict.PROBLEM]
    assert "square" in found[0][1]
    assert "dropbox" in found[1][1]


async def test_an_endpoint_that_fails_and_an_issuer_of_nobody_are_noted(place: SignalRoom) -> None:
    deployment = place.room.deployment
    async with deployment.transaction() as transaction:
        made = await endpoints.add(
            transaction, deployment.keys, url="https://hooks.example/x", events=frozenset({"revoked"}), now=1
        )
        await channels.record_result(transaction, made.id, failure="500", now=2)
    (found,) = await check_people_and_endpoints(deployment)
    assert "500" in found.sentence
    async with deployment.transaction() as transaction:
        await endpoints.remove(transaction, made.id)


async def test_explain_names_the_signal_that_stopped_an_agent(place: SignalRoom) -> None:
    person = await place.link_person()
    deployment = place.room.deployment

    async def sentences() -> str:
        question = ExchangeQuestion(user_name=person.user.name, client_id=person.tokens.client_id, connection_id="x")
        return str(await explain(question, vault=deployment.vault, now=deployment.now()))

    assert "stopped" not in await sentences()
    assert (await place.event(f"{RISC}account-disabled", place.subject(person))).status_code == 202
    assert f"A signal from {place.openid.url} stopped the agents of {person.user.name}." in await sentences()


@pytest.mark.parametrize("other", [True, False])
async def test_after_stops_by_two_issuers_only_an_admin_lets_agents_go_on(place: SignalRoom, *, other: bool) -> None:
    person, deployment = await place.link_person(), place.room.deployment
    first, now = place.openid.url, deployment.now()
    second = "https://accounts.google.com" if other else first
    async with deployment.transaction() as transaction:
        for issuer in (first, second):
            await users.stop_agents(transaction, person.user.id, by=issuer, at=now, now=now)
        lifted = [
            await users.lift_stop(transaction, person.user.id, by=issuer, signed_in_at=now) for issuer in (second, "")
        ]
    assert lifted == [not other, False]
    question = ExchangeQuestion(user_name=person.user.name, client_id=person.tokens.client_id, connection_id="x")
    said = str(await explain(question, vault=deployment.vault, now=now))
    assert ("A signal from each of two issuers" in said) == other
    async with deployment.transaction() as transaction:
        assert await users.enable_user(transaction, person.user.id, now=now) == other
