"""Accounts that connect without a page, because the person's identity provider vouches for them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from providers.simulator.person import consent
from server.lifecycle.maintenance import run_step
from server.lifecycle.periodic_steps import SWEEPS
from server.portal.access.access_changes import end_agent
from server.settings import SHORTEST_RETENTION, RetentionSettings
from tests.conftest import Store
from tests.support.doubles.stopped_clock import stopped_clock
from tests.support.rooms.company_room import IDENTITY, LINEAR, CompanyRoom, mode, running_company
from tests.support.simulator_apps import wait_until_held
from vault import connections, delegations
from vault.records import Connection, ConnectionState, Narrowing, User
from vault.refresh import company as companies
from vault.refresh import leases
from vault.refresh.assertions import identity_of
from vault.refresh.rules import LEASE
from vault.refusals import ConnectionRequired, DelegationRequired, ScopeRefused, TemporarilyUnavailable
from vault.upkeep import revocations

READ = frozenset({"read"})
PROVIDER_TOKEN = f"families.{mode('linear')}.token.assertion"


async def connect_linear(company: CompanyRoom, name: str) -> tuple[User, Connection]:
    user, _ = await company.sign_in(name)
    return user, (await company.accounts(user))["linear"]


async def test_a_first_sign_in_connects_every_enrolled_service_without_a_consent_page(company: CompanyRoom) -> None:
    user, person = await company.sign_in("alice")
    accounts = await company.accounts(user)
    assert set(accounts) == {IDENTITY, "linear", "asana"}
    assert accounts["linear"].renewed_by == accounts[IDENTITY].id
    assert accounts["linear"].label == "alice@example.com"
    books = company.simulator.books()
    assert (books["authorizations"], books["consents"]) == ([], [])
    assert {one["audience"] for one in company.assertions("redeemed")} == {
        company.issuer("asana"),
        company.issuer("linear"),
    }
    assert (await company.room.kinds(user)).count("connection.vouched") == 2
    page = (await person.open("/connections")).text
    assert "Sandbox company" in page
    assert "Connected by your company" in page
    page = (await person.open(f"/connections/{accounts[IDENTITY].id}")).text
    assert "Agents that can use it" not in page
    assert "Agents that can use it" in (await person.open(f"/connections/{accounts['linear'].id}")).text
    page = (await person.open(f"/connections/{accounts[IDENTITY].id}/disconnect")).text
    assert "stop working immediately, until you sign in with Sandbox company again" in page


async def test_no_agent_may_use_what_a_company_connected_until_somebody_lets_it(company: CompanyRoom) -> None:
    user, _ = await connect_linear(company, "alice")
    agent = await company.agent(user)
    with pytest.raises(DelegationRequired):
        await company.exchange(agent, "linear", READ)
    agent = await company.agent(user, allows={"linear": READ})
    assert (await company.exchange(agent, "linear", READ)).scopes == READ


async def test_the_identity_itself_is_never_handed_out(company: CompanyRoom) -> None:
    user, _ = await connect_linear(company, "alice")
    agent = await company.agent(user, allows={IDENTITY: frozenset({"openid"}), "linear": READ})
    with pytest.raises(ScopeRefused, match="doesn't know the provider"):
        await company.exchange(agent, IDENTITY)
    assert (await company.exchange(agent, "linear", READ)).scopes == READ


async def test_each_renewal_uses_a_new_assertion_and_a_new_id_token_when_that_has_ended(company: CompanyRoom) -> None:
    user, account = await connect_linear(company, "alice")
    agent = await company.agent(user, allows={"linear": LINEAR})
    first = await company.exchange(agent, "linear")
    before, refreshed = len(company.assertions("redeemed")), len(company.refreshes())
    company.pass_time(2 * 86400)
    tokens = await asyncio.gather(*(company.exchange(agent, "linear") for _ in range(20)))
    assert {one.value for one in tokens} == {tokens[0].value} != {first.value}
    assert len(company.assertions("redeemed")) == before + 1
    assert company.refreshes()[refreshed:] == ["rotated"]
    assert (await company.accounts(user))["linear"].id == account.id
    entries = await company.vault.journal.find(account.id)
    assert entries, "the answer was journalled before it was stored"


async def test_a_narrower_token_comes_by_a_narrower_assertion(company: CompanyRoom) -> None:
    """Linear itself can't narrow a token, so its file says nothing about it."""
    user, _ = await connect_linear(company, "alice")
    agent = await company.agent(user, allows={"linear": LINEAR})
    whole, narrow = await company.exchange(agent, "linear"), await company.exchange(agent, "linear", READ)
    assert whole.value != narrow.value
    assert narrow.narrowing is Narrowing.UPSTREAM
    assert company.assertions("redeemed")[-1]["scopes"] == ["read"]


async def test_an_answer_that_is_lost_costs_nothing(company: CompanyRoom) -> None:
    user, account = await connect_linear(company, "alice")
    agent = await company.agent(user, allows={"linear": LINEAR})
    company.pass_time(2 * 86400)
    for _ in range(2):  # the vault asks twice, each time with a new assertion
        company.simulator.fault(PROVIDER_TOKEN, "drop_after")
    with pytest.raises(TemporarilyUnavailable, match="The account stays connected"):
        await company.exchange(agent, "linear")
    assert (await company.exchange(agent, "linear")).connection_id == account.id
    found = (await company.accounts(user))["linear"]
    assert (found.state, found.is_ambiguous) == (ConnectionState.ACTIVE, False)


async def test_a_process_that_died_while_it_renewed_leaves_nothing_in_doubt(company: CompanyRoom) -> None:
    """Linear revokes its refresh tokens on reuse; an assertion is a new one each time."""
    user, account = await connect_linear(company, "alice")
    agent = await company.agent(user, allows={"linear": LINEAR})
    company.pass_time(2 * 86400)
    database = company.vault.database
    facts = await leases.read(database, account.id)
    assert facts is not None
    async with database.transaction() as transaction:
        claimed = await leases.claim(transaction, facts, owner="a process that is gone", now=database.now())
    assert claimed is not None
    company.pass_time(LEASE)
    assert (await company.exchange(agent, "linear")).connection_id == account.id
    found = (await company.accounts(user))["linear"]
    assert (found.state, found.is_ambiguous) == (ConnectionState.ACTIVE, False)


async def test_a_company_that_no_longer_vouches_ends_the_connection_until_it_does_again(company: CompanyRoom) -> None:
    user, account = await connect_linear(company, "alice")
    agent = await company.agent(user, allows={"linear": LINEAR})
    company.deny("linear", "alice")
    company.pass_time(2 * 86400)
    with pytest.raises(ConnectionRequired, match="no longer vouches") as refused:
        await company.exchange(agent, "linear")
    assert refused.value.reason == "needs_reauth"
    found = (await company.accounts(user))["linear"]
    assert (found.state, found.reason) == (ConnectionState.NEEDS_REAUTH, "identity_access_denied")
    with (
        stopped_clock(company.vault.database) as now,
        pytest.raises(ConnectionRequired, match="doesn't vouch for them at linear \\(access_denied\\): ask its admin"),
    ):
        await company.exchange(agent, "linear")
    asked = len(company.assertions("refused:access_denied"))
    for passed in (0, 59):
        with (
            stopped_clock(company.vault.database, at=now + passed),
            pytest.raises(ConnectionRequired, match="access_denied"),
        ):
            await company.exchange(agent, "linear")
    assert len(company.assertions("refused:access_denied")) == asked, "not asked again within a minute"
    company.allow("linear")
    company.pass_time(60)
    assert (await company.exchange(agent, "linear")).connection_id == account.id


async def test_a_service_that_refuses_the_assertion_falls_back_to_a_connection_by_hand(company: CompanyRoom) -> None:
    company.deny("linear", "bob")
    user, person = await company.sign_in("bob")
    agent = await company.agent(user)
    with pytest.raises(ConnectionRequired, match="ask its admin") as refused:
        await company.exchange(agent, "linear", READ)
    assert refused.value.reason == "missing"
    assert [one.kind for one in await company.room.events(user)].count("connection.unvouched") == 1
    client = await company.room.agent()
    page = await company.room.connect(person, user, client, provider="linear", scopes=READ, account="bob")
    assert "connected" in page.text
    account = (await company.accounts(user))["linear"]
    assert account.renewed_by is None
    company.allow("linear")
    company.pass_time(86400)
    await company.sign_in("bob")
    assert (await company.accounts(user))["linear"].renewed_by is None, "what the person connected stays theirs"


async def test_the_connect_page_uses_the_company_first(company: CompanyRoom) -> None:
    """The person ended the connection, so only they can restore it; that needs no page of the service."""
    user, account = await connect_linear(company, "carol")
    await disconnect(company, user, account)
    agent = await company.agent(user)
    with pytest.raises(ConnectionRequired, match="No linear account"):
        await company.exchange(agent, "linear", READ)
    _, person = await company.sign_in("carol")
    assert "linear" not in await company.accounts(user), "signing in doesn't bring it back"
    client = await company.room.agent()
    link = await company.room.link(user, client, provider="linear", scopes=READ)
    page = await person.open(link.url)
    page = await person.submit(page, form="/connect/", button=("decision", "allow"))
    assert "connected" in page.text
    found = (await company.accounts(user))["linear"]
    assert found.renewed_by is not None
    assert (
        await company.exchange(
            replace(agent, client_id=client.id, grant_id=await company.room.grant(user, client)), "linear", READ
        )
    ).scopes == READ


async def test_an_account_connected_by_hand_that_was_disconnected_stays_away(company: CompanyRoom) -> None:
    company.deny("linear", "bob")
    user, person = await company.sign_in("bob")
    client = await company.room.agent()
    await company.room.connect(person, user, client, provider="linear", scopes=READ, account="bob")
    account = (await company.accounts(user))["linear"]
    assert account.renewed_by is None
    await disconnect(company, user, account)
    company.allow("linear")
    company.pass_time(companies.PAUSE)
    agent = await company.agent(user)
    with pytest.raises(ConnectionRequired, match="No linear account"):
        await company.exchange(agent, "linear", READ)
    await company.sign_in("bob")
    assert "linear" not in await company.accounts(user)
    assert (await companies.connect(company.vault, user.id, "linear", is_asked=True)).connection is not None


async def test_a_disconnected_account_stays_away_after_ended_records_are_deleted(company: CompanyRoom) -> None:
    user, first = await connect_linear(company, "carol")
    await disconnect(company, user, first)
    company.pass_time(86400)
    second = (await companies.connect(company.vault, user.id, "linear", is_asked=True)).connection
    assert second is not None
    await disconnect(company, user, second)
    company.pass_time((SHORTEST_RETENTION + 1) * 86400)
    rules = {"retention": RetentionSettings(ended_days=SHORTEST_RETENTION)}
    settings = company.room.deployment.settings.model_copy(update=rules)
    (step,) = [one for one in SWEEPS if one.name == "ended records"]
    await run_step(replace(company.room.deployment, settings=settings), step)
    left = await connections.list_connections(company.vault.database, user.id, include_ended=True)
    assert first.id not in {one.id for one in left}  # the twin: the last end is enough to remember
    agent = await company.agent(user)
    with pytest.raises(ConnectionRequired):
        await company.exchange(agent, "linear", READ)
    await company.sign_in("carol")
    assert "linear" not in await company.accounts(user)
    assert (await companies.connect(company.vault, user.id, "linear", is_asked=True)).connection is not None


async def test_a_reconnected_account_heals_although_an_earlier_one_was_disconnected(company: CompanyRoom) -> None:
    user, account = await connect_linear(company, "carol")
    await disconnect(company, user, account)
    company.pass_time(companies.PAUSE)
    answer = await companies.connect(company.vault, user.id, "linear", is_asked=True)
    assert answer.connection is not None
    agent = await company.agent(user, allows={"linear": LINEAR})
    company.deny("linear", "carol")
    company.pass_time(2 * 86400)
    with pytest.raises(ConnectionRequired, match="no longer vouches"):
        await company.exchange(agent, "linear")
    company.allow("linear")
    company.pass_time(companies.PAUSE)
    assert (await company.exchange(agent, "linear")).connection_id == answer.connection.id


async def test_only_the_persons_own_identity_vouches_for_an_account(company: CompanyRoom) -> None:
    _, account = await connect_linear(company, "alice")
    other, _ = await connect_linear(company, "carol")
    facts = await leases.read(company.vault.database, account.id)
    assert facts is not None
    found = await identity_of(company.vault, facts)
    assert found is not None
    assert found.connection_id == account.renewed_by
    for another in ((await company.accounts(other))[IDENTITY].id, account.id + "x", None):
        assert await identity_of(company.vault, replace(facts, renewed_by=another)) is None


async def disconnect(company: CompanyRoom, user: User, account: Connection) -> None:
    async with company.room.deployment.transaction() as transaction:
        now = company.room.deployment.now()
        await connections.disconnect(transaction, company.room.deployment.keys, account, now=now)
    assert await revocations.revoke_upstream(company.vault, account.id) == "revoked"
    assert account.id not in {one.id for one in (await company.accounts(user)).values()}


async def test_disconnecting_ends_the_token_at_the_service(company: CompanyRoom) -> None:
    user, account = await connect_linear(company, "bob")
    await disconnect(company, user, account)
    ended = company.simulator.books()["revocations"][-1]
    assert ended["face"] == "families.known-linear"
    family = next(one for one in company.simulator.books()["families"] if one["family"] == ended["family"])
    assert family["ended"] == "revoked"


async def test_a_renewal_that_is_answered_after_disconnecting_is_ended_too(company: CompanyRoom) -> None:
    user, account = await connect_linear(company, "bob")
    agent = await company.agent(user, allows={"linear": LINEAR})
    company.pass_time(2 * 86400)
    company.simulator.fault(PROVIDER_TOKEN, "hold", when="after")
    renewing = asyncio.create_task(company.exchange(agent, "linear"))
    await wait_until_held(company.simulator, PROVIDER_TOKEN, seconds=10)
    async with company.room.deployment.transaction() as transaction:
        now = company.room.deployment.now()
        await connections.disconnect(transaction, company.room.deployment.keys, account, now=now)
    company.simulator.sandbox.faults.release()
    await asyncio.gather(renewing, return_exceptions=True)
    company.pass_time(LEASE + 1)
    await revocations.run_due(company.vault)
    renewed = [one for one in company.simulator.books()["families"] if one["face"] == "families.known-linear"][-1]
    assert renewed["ended"] == "revoked"


async def test_ending_the_identity_ends_what_it_vouched_for_and_signing_in_brings_it_back(
    company: CompanyRoom,
) -> None:
    user, account = await connect_linear(company, "bob")
    agent = await company.agent(user, allows={"linear": LINEAR})
    await disconnect(company, user, (await company.accounts(user))[IDENTITY])
    ended = company.simulator.books()["revocations"][-1]
    assert (ended["face"], ended["outcome"]) == ("company", "ok")
    with pytest.raises(ConnectionRequired, match="Sign in to the vault again"):
        await company.exchange(agent, "linear")
    await company.sign_in("bob")
    assert (await company.exchange(agent, "linear")).connection_id == account.id


async def test_a_company_that_ends_the_sign_in_stops_renewals_until_the_next_one(company: CompanyRoom) -> None:
    user, account = await connect_linear(company, "bob")
    agent = await company.agent(user, allows={"linear": LINEAR})
    company.simulator.sandbox.inactive.add("bob")
    company.pass_time(2 * 86400)
    with pytest.raises(ConnectionRequired, match="Sign in to the vault again"):
        await company.exchange(agent, "linear")
    assert (await company.accounts(user))[IDENTITY].state is ConnectionState.NEEDS_REAUTH
    company.simulator.sandbox.inactive.discard("bob")
    await company.sign_in("bob")
    assert (await company.exchange(agent, "linear")).connection_id == account.id


async def test_a_refresh_without_an_id_token_keeps_the_refresh_token(company: CompanyRoom) -> None:
    """OpenID Connect Core §12.2 allows that: no assertion is possible then, but nothing is lost."""
    user, _ = await connect_linear(company, "bob")
    agent = await company.agent(user, allows={"linear": LINEAR})
    company.simulator.sandbox.directory.renews_id_tokens = False
    company.pass_time(2 * 86400)
    with pytest.raises(ConnectionRequired, match="Sign in to the vault again"):
        await company.exchange(agent, "linear")
    company.simulator.sandbox.directory.renews_id_tokens = True
    company.pass_time(2 * 3600)
    assert (await company.exchange(agent, "linear")).scopes
    assert company.refreshes()[-2:] == ["rotated", "rotated"]


async def test_a_refresh_token_stands_for_an_id_token_that_is_not_renewed(company: CompanyRoom) -> None:
    """Draft -04 §4.3. The token is presented, not used up: the identity provider's own rotation continues."""
    user, _ = await connect_linear(company, "bob")
    agent = await company.agent(user, allows={"linear": LINEAR, "asana": frozenset({"default"})})
    directory = company.simulator.sandbox.directory
    directory.renews_id_tokens, directory.takes_refresh_tokens = False, True
    for _ in range(2):
        company.pass_time(2 * 86400)
        rotated = len(company.refreshes())
        tokens = await asyncio.gather(*(company.exchange(agent, one) for one in ("linear", "asana") * 3))
        assert len({one.value for one in tokens}) == 2
        assert company.refreshes()[rotated:] == ["rotated"]
        issued = company.assertions("issued")
        assert [str(one["subject"]).rpartition(":")[2] for one in issued[-2:]] == ["refresh_token"] * 2
    narrow = await company.exchange(agent, "linear", READ)
    assert narrow.narrowing is Narrowing.UPSTREAM
    identity = (await company.accounts(user))[IDENTITY]
    assert identity.state is ConnectionState.ACTIVE
    facts = await leases.read(company.vault.database, identity.id)
    assert facts is not None
    assert (facts.lease_owner, facts.sent_at) == (None, None)


async def test_a_service_that_the_company_refuses_blocks_no_other_one(company: CompanyRoom) -> None:
    user, _ = await connect_linear(company, "bob")
    agent = await company.agent(user, allows={"linear": LINEAR, "asana": frozenset({"default"})})
    directory = company.simulator.sandbox.directory
    directory.renews_id_tokens, directory.takes_refresh_tokens = False, True
    company.pass_time(2 * 86400)
    del directory.services[company.issuer("asana")]
    try:
        with pytest.raises(ConnectionRequired) as refused:
            await company.exchange(agent, "asana")
        answer = await companies.connect(company.vault, user.id, "asana")
    finally:
        company.allow("asana")
    assert (refused.value.provider, refused.value.detail) == ("asana", "identity_invalid_target")
    assert "doesn't vouch for them at asana (invalid_target): ask its admin" in answer.refusal
    assert (await company.exchange(agent, "linear")).scopes


async def test_a_narrowing_that_the_company_refuses_ends_nothing(company: CompanyRoom) -> None:
    user, account = await connect_linear(company, "bob")
    agent = await company.agent(user, allows={"linear": READ})
    directory = company.simulator.sandbox.directory
    service = directory.services[company.issuer("linear")]
    for is_shown in (False, True):
        directory.renews_id_tokens, directory.takes_refresh_tokens = not is_shown, is_shown
        company.pass_time(2 * 86400)
        directory.services[company.issuer("linear")] = replace(service, scopes=LINEAR - READ)
        refused = len(company.assertions("refused:invalid_scope"))
        assert (await company.exchange(agent, "linear", READ)).narrowing is not Narrowing.UPSTREAM
        assert len(company.assertions("refused:invalid_scope")) == refused + 1
        company.allow("linear")
        company.pass_time(700)  # past the pause for narrowing
        assert (await company.exchange(agent, "linear", READ)).connection_id == account.id
        assert (await company.accounts(user))["linear"].state is ConnectionState.ACTIVE


async def test_a_refused_refresh_token_is_asked_for_again_after_the_next_sign_in(company: CompanyRoom) -> None:
    """However soon the ID token of the sign-in expires."""
    user, account = await connect_linear(company, "bob")
    agent = await company.agent(user, allows={"linear": LINEAR})
    directory = company.simulator.sandbox.directory
    directory.renews_id_tokens = False
    company.pass_time(2 * 86400)
    with pytest.raises(ConnectionRequired, match="Sign in to the vault again"):
        await company.exchange(agent, "linear")
    asked = len(company.simulator.books()["assertions"])
    with pytest.raises(ConnectionRequired, match="Sign in to the vault again"):
        await company.exchange(agent, "linear")
    assert len(company.simulator.books()["assertions"]) == asked, "the pause holds"
    await company.sign_in("bob")
    directory.takes_refresh_tokens = True
    database, identity = company.vault.database, (await company.accounts(user))[IDENTITY]
    async with database.transaction() as transaction:  # past the one-minute ID token's expiry
        await transaction.execute(
            "update connections set access_sealed = null, access_expires_at = :now where id = :id",
            {"now": database.now(), "id": identity.id},
        )
    token = await company.exchange(agent, "linear")
    assert (await company.exchange(agent, "linear", spoiled=token.generation)).connection_id == account.id
    assert str(company.assertions("issued")[-1]["subject"]).endswith("refresh_token")


async def test_a_refresh_token_that_is_being_spent_is_not_shown(company: CompanyRoom) -> None:
    user, _ = await connect_linear(company, "bob")
    agent = await company.agent(user, allows={"linear": LINEAR})
    directory = company.simulator.sandbox.directory
    directory.renews_id_tokens, directory.takes_refresh_tokens = False, True
    company.pass_time(2 * 86400)
    token = await company.exchange(agent, "linear")
    identity, database = (await company.accounts(user))[IDENTITY], company.vault.database
    facts = await leases.read(database, identity.id)
    assert facts is not None
    async with database.transaction() as transaction:
        lease = await leases.claim(transaction, facts, owner=company.vault.owner, now=database.now())
    assert lease is not None
    asked = len(company.simulator.books()["assertions"])
    for is_leased in (True, False):  # without its lease, the send still has an unknown result
        if not is_leased:
            async with database.transaction() as transaction:
                await leases.release(transaction, lease)
        with pytest.raises(TemporarilyUnavailable, match="can't be asked right now"):
            await company.exchange(agent, "linear", spoiled=token.generation)
        assert len(company.simulator.books()["assertions"]) == asked
    async with database.transaction() as transaction:
        assert await leases.unsend(transaction, lease, now=database.now())
    assert (await company.exchange(agent, "linear", spoiled=token.generation)).value != token.value


@pytest.mark.parametrize(
    ("status", "said"),
    [(429, "identity provider is rate limiting"), (503, "identity provider can't be asked right now")],
)
async def test_an_identity_provider_that_asks_for_patience_is_shown_no_refresh_token_meanwhile(
    company: CompanyRoom, status: int, said: str
) -> None:
    user, _ = await connect_linear(company, "bob")
    agent = await company.agent(user, allows={"linear": LINEAR, "asana": frozenset({"default"})})
    directory = company.simulator.sandbox.directory
    directory.renews_id_tokens, directory.takes_refresh_tokens = False, True
    company.pass_time(2 * 86400)
    company.simulator.fault("company.token.exchange", "rate_limited", status=status, retry_after=40)
    asking = [company.exchange(agent, one) for one in ("linear", "asana")]
    for refused in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(refused, TemporarilyUnavailable)
        assert said in refused.description
    company.pass_time(30)
    with pytest.raises(TemporarilyUnavailable, match=said) as later:
        await company.exchange(agent, "linear")
    assert 5 <= later.value.retry_after <= 10
    company.pass_time(11)
    assert (await company.exchange(agent, "linear")).scopes


async def test_an_id_token_of_somebody_else_asserts_nothing(company: CompanyRoom) -> None:
    user, _ = await connect_linear(company, "bob")
    agent = await company.agent(user, allows={"linear": LINEAR})
    families = company.simulator.sandbox.faces["company"].tokens.families
    families[-1].account = "carol"
    company.pass_time(2 * 86400)
    asked = len(company.simulator.books()["assertions"])
    with pytest.raises(ConnectionRequired, match="no longer vouches"):
        await company.exchange(agent, "linear")
    assert len(company.simulator.books()["assertions"]) == asked
    assert (await company.accounts(user))["linear"].reason == "identity_wrong_subject"


async def test_a_connection_by_hand_replaces_the_companys(company: CompanyRoom) -> None:
    user, person = await company.sign_in("bob")
    account = (await company.accounts(user))["linear"]
    agent = await company.agent(user, allows={"linear": LINEAR})
    page = await person.open(f"/connections/{account.id}")
    answer = await person.submit(page, form="/reconnect")
    page = await person.open(await consent(answer.headers["location"], account="bob"))
    assert page.status_code == 200, page.text
    found = (await company.accounts(user))["linear"]
    assert (found.id, found.renewed_by, found.has_refresh_token) == (account.id, None, True)
    asked = len(company.simulator.books()["assertions"])
    company.pass_time(2 * 86400)
    await company.exchange(agent, "linear")
    assert len(company.simulator.books()["assertions"]) == asked


async def test_a_company_connects_and_renews_on_both_databases(store: Store) -> None:
    async with running_company(store.data, database_url=store.url) as company:
        user, _ = await company.sign_in("alice")
        agent = await company.agent(user, allows={"linear": LINEAR})
        first = await company.exchange(agent, "linear")
        second = await company.exchange(agent, "linear", spoiled=first.generation)
        narrow = await company.exchange(agent, "linear", READ)
        assert len({first.value, second.value, narrow.value}) == 3
        await disconnect(company, user, (await company.accounts(user))[IDENTITY])
        with pytest.raises(ConnectionRequired):
            await company.exchange(agent, "linear")
        await company.sign_in("alice")
        assert (await company.exchange(agent, "linear")).scopes == {"write"}, "which covers reading"


async def test_an_answer_that_comes_after_the_identity_ended_brings_nothing_back(store: Store) -> None:
    async with running_company(store.data, database_url=store.url, services=["linear"]) as company:
        faults = company.simulator.sandbox.faults

        user, _ = await connect_linear(company, "bob")
        agent = await company.agent(user, allows={"linear": LINEAR})
        for is_ended in (True, False):
            company.pass_time(2 * 86400)
            company.simulator.fault(PROVIDER_TOKEN, "hold", when="after")
            renewing = asyncio.create_task(company.exchange(agent, "linear"))
            await wait_until_held(company.simulator, PROVIDER_TOKEN)
            if is_ended:
                await disconnect(company, user, (await company.accounts(user))[IDENTITY])
            faults.release()
            (outcome,) = await asyncio.gather(renewing, return_exceptions=True)
            found = (await company.accounts(user))["linear"]
            if is_ended:
                assert isinstance(outcome, ConnectionRequired)
                assert (found.state, found.reason) == (ConnectionState.NEEDS_REAUTH, connections.UNVOUCHED)
                await company.sign_in("bob")
            else:
                assert found.state is ConnectionState.ACTIVE
        for name, is_ended in (("carol", True), ("alice", False)):
            company.simulator.fault(PROVIDER_TOKEN, "hold", when="after")
            user, _ = await company.sign_in(name, waits=False)
            await wait_until_held(company.simulator, PROVIDER_TOKEN)
            if is_ended:
                await disconnect(company, user, (await company.accounts(user))[IDENTITY])
            faults.release()
            await company.vault.tasks.wait_until_finished(f"company:{user.id}", patience=60)
            assert ("linear" in await company.accounts(user)) is not is_ended


async def test_an_agent_that_is_cut_off_while_the_company_connects_is_not_let_in(store: Store) -> None:
    async with running_company(store.data, database_url=store.url, services=["linear"]) as company:
        room = company.room
        user, person = await company.sign_in("carol")
        client = await room.agent()
        for cuts_off in (True, False):
            await disconnect(company, user, (await company.accounts(user))["linear"])
            page = await person.open((await room.link(user, client, provider="linear", scopes=READ)).url)
            company.simulator.fault(PROVIDER_TOKEN, "hold", when="after")
            allowing = asyncio.create_task(person.submit(page, form="/connect/", button=("decision", "allow")))
            await wait_until_held(company.simulator, PROVIDER_TOKEN, seconds=10)
            if cuts_off:
                await end_agent(room.deployment, user, client)
            company.simulator.sandbox.faults.release()
            answer = await allowing
            account = (await company.accounts(user))["linear"]
            which = {"user_id": user.id, "client_id": client.id, "connection_id": account.id}
            held = await delegations.get(room.deployment.database, **which)
            assert (held is not None and held.revoked_at is None) is not cuts_off
            assert answer.status_code == (410 if cuts_off else 200), answer.text
