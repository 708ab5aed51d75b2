"""An identity that an admin unlinks vouches for nothing anymore."""

from __future__ import annotations

import pytest

from server.administration import people
from server.administration.actor import Actor
from tests.support.rooms.company_room import IDENTITY, LINEAR, CompanyRoom
from vault import users
from vault.refusals import ConnectionRequired


@pytest.mark.parametrize("is_unlinked", [True, False])
async def test_an_unlinked_identity_connects_and_renews_nothing_anymore(
    company: CompanyRoom, *, is_unlinked: bool
) -> None:
    user, _ = await company.sign_in("alice")
    agent = await company.agent(user, allows={"linear": LINEAR})
    actor, issuer = Actor(company.room.deployment, None, "command_line"), f"{company.simulator.url}/company"
    (mine,) = [one for one in await users.list_identities(company.vault.database, user.id) if one.issuer == issuer]
    # `sub` is unique at its issuer only
    for which in ({"issuer": "https://id.example", "subject": mine.subject}, {"issuer": issuer, "subject": "other"}):
        await people.link_identity(actor, user, **which)
        assert await people.unlink_identity(actor, user, **which)
    assert (await company.exchange(agent, "linear")).value
    if is_unlinked:
        assert await people.unlink_identity(actor, user, issuer=issuer, subject=mine.subject)
    company.pass_time(2 * 86400)
    if not is_unlinked:
        assert (await company.exchange(agent, "linear")).value
        assert IDENTITY in await company.accounts(user)
        return
    with pytest.raises(ConnectionRequired, match="Sign in to the vault again"):
        await company.exchange(agent, "linear")
    assert IDENTITY not in await company.accounts(user)
    ended = company.simulator.books()["revocations"][-1]
    assert (ended["face"], ended["outcome"]) == ("company", "ok")
