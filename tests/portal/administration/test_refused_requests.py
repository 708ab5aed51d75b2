"""Reasons to refuse an answer to an access request, each with the same answer that succeeds."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace

import pytest

from server.administration import access_requests
from server.administration import groups as administration
from server.administration.access_requests import AccessAnswer
from server.administration.actor import Actor, ChangeRefused
from tests.portal.administration.test_access_requests import Office, office
from vault.approvals import access_requests as stored
from vault.approvals.access_requests import AccessRequest

__all__ = ["office"]  # a fixture


async def refusal(change: Awaitable[object]) -> str:
    with pytest.raises(ChangeRefused) as refused:
        await change
    return refused.value.reason


async def ask(office: Office, **changes: object) -> AccessRequest:
    asking = office.access_input(**changes)
    return (await access_requests.ask(office.admin.deployment, office.otto if asking.group else office.bob, asking))[0]


async def test_only_the_person_confirms_what_their_agent_asked_for(office: Office) -> None:
    request, own = await ask(office, is_by_agent=True), Actor(office.admin.deployment, office.bob, "administration")
    assert await refusal(access_requests.confirm(own, "another")) == "no_request"
    assert await refusal(access_requests.confirm(replace(own, agent=office.agent), request.id)) == "no_request"
    assert await refusal(access_requests.confirm(replace(own, user=office.mia), request.id)) == "no_request"
    assert (await access_requests.confirm(own, request.id)).confirmed_at is not None


async def test_only_who_asked_and_who_answers_end_a_request(office: Office) -> None:
    request, deployment = await ask(office), office.admin.deployment
    stranger = Actor(deployment, office.otto, "administration")
    assert await refusal(access_requests.end(stranger, request.id)) == "no_request"
    assert await refusal(access_requests.end(stranger, "another")) == "no_request"
    for user in (office.bob, office.mia):
        request = await ask(office)
        assert await access_requests.end(Actor(deployment, user, "administration"), request.id)


async def test_a_request_of_nobody_gives_nothing(office: Office) -> None:
    request, deployment = await ask(office), office.admin.deployment
    async with deployment.transaction() as transaction:
        theirs = replace(request.access, user_id="nobody")
        of_nobody, _ = await stored.ask(transaction, theirs, now=deployment.now())
    answer = AccessAnswer(1)
    assert await refusal(access_requests.allow(office.admin.operator, of_nobody.id, answer)) == "asker_gone"
    assert await access_requests.allow(office.admin.operator, request.id, answer)


async def test_nobody_joins_a_group_that_is_gone(office: Office) -> None:
    for is_gone in (False, True):
        request = await ask(office, account="", group="Sales")
        allow = access_requests.allow(office.admin.operator, request.id, AccessAnswer(1))
        if not is_gone:
            await access_requests.end(office.admin.operator, (await allow).id)
            continue
        await administration.delete(office.admin.operator, office.group)
        assert await refusal(allow) == "no_such_access"
