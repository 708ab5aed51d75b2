"""Refresh tokens: rotation, the honest repeat, reuse; nothing grows, and a refused request uses nothing up."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.conftest import Store
from tests.support.inspection import get_grant
from tests.support.seeded_grant import LIFETIMES, NOW, RESOURCE, SCOPES, SeededGrant, seed
from vault import grants
from vault.audit import audit
from vault.records import Grant
from vault.refusals import GrantEnded, ScopeRefused, TemporarilyUnavailable, VaultError
from vault.storage.database import Database
from vault.tokens import tokens
from vault.tokens.token_rules import RepeatVerdict
from vault.tokens.tokens import AcceptedRefresh, Lifetimes, RefreshRequest, TokenReused

DAY = 86400
GRACE = LIFETIMES.grace


async def _issue(
    database: Database,
    seeded: SeededGrant,
    *,
    scopes: frozenset[str] = SCOPES,
    resource: str = RESOURCE,
    key_thumbprint: str | None = None,
    lifetimes: Lifetimes = LIFETIMES,
) -> str:
    async with database.transaction() as transaction:
        return await tokens.issue_refresh_token(
            transaction,
            seeded.grant,
            scopes=scopes,
            resource=resource,
            now=NOW,
            key_thumbprint=key_thumbprint,
            lifetimes=lifetimes,
        )


async def _rotate(
    database: Database, token: str, *, now: int = NOW, request: RefreshRequest | None = None
) -> AcceptedRefresh:
    return await tokens.rotate(
        database, token, request=request or RefreshRequest("agent-1"), now=now, lifetimes=LIFETIMES
    )


async def _live(database: Database) -> int:
    rows = await database.fetch(
        "select t.token_hash from refresh_tokens t join grants g on g.tenant = t.tenant and g.id = t.grant_id"
        " where t.consumed_at is null and g.revoked_at is null"
    )
    return len(rows)


async def _count_sealed(database: Database) -> int:
    return len(await database.fetch("select 1 as one from refresh_tokens where successor_sealed is not null"))


@pytest.mark.requirement("S-078")
async def test_each_use_gives_a_new_256_bit_token_and_what_the_grant_allows(database: Database) -> None:
    seeded = await seed(database)
    first = await _issue(database, seeded)
    second = await _rotate(database, first)
    third = await _rotate(database, second.refresh_token)
    assert len({first, second.refresh_token, third.refresh_token}) == 3
    assert all(len(token) == 43 for token in (first, second.refresh_token, third.refresh_token))
    assert (second.grant, second.scopes, second.resource) == (seeded.grant, SCOPES, RESOURCE)
    assert not second.is_repeat
    assert await _live(database) == 1
    stored = await tokens.find(database, third.refresh_token)
    assert stored is not None
    assert stored.generation == 3
    assert second.refresh_token not in repr(second)


@pytest.mark.requirement("S-078")
async def test_no_token_can_be_read_in_the_table_nor_a_sealed_successor_without_its_predecessor(
    database: Database,
) -> None:
    seeded = await seed(database)
    first = await _issue(database, seeded)
    second = await _rotate(database, first)
    rows = await database.fetch("select * from refresh_tokens")
    assert len(rows) == 2
    for row in rows:
        for value in row.values():
            for token in (first, second.refresh_token):
                assert token.encode() not in (value if isinstance(value, bytes) else str(value).encode())
    assert await _count_sealed(database) == 1


@pytest.mark.requirement("S-078", "S-082")
@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (RefreshRequest("agent-2"), GrantEnded),
        (RefreshRequest("AGENT-1"), GrantEnded),
        (RefreshRequest("agent-1", scopes=SCOPES | {"exchange"}), ScopeRefused),
        (RefreshRequest("agent-1", scopes=frozenset({"openid"})), ScopeRefused),
        (RefreshRequest("agent-1", resource="https://other.example"), tokens.ResourceRefused),
        (RefreshRequest("agent-1", resource=RESOURCE + "/"), tokens.ResourceRefused),
        (RefreshRequest("agent-1", resource=f"{RESOURCE} https://other.example"), tokens.ResourceRefused),
    ],
)
async def test_a_refused_request_gets_nothing_and_burns_nothing(
    database: Database, request_: RefreshRequest, refusal: type[VaultError]
) -> None:
    seeded = await seed(database)
    await seed(database, name="bob", client_id="agent-2")
    first = await _issue(database, seeded)
    with pytest.raises(refusal) as refused:
        await _rotate(database, first, request=request_)
    assert not isinstance(refused.value, TokenReused)
    assert first not in f"{refused.value!r} {refused.value.detail}"
    rotated = await _rotate(database, first, request=replace(request_, client_id="agent-1", scopes=None, resource=None))
    assert not rotated.is_repeat
    assert await grants.live_principal_facts(database, seeded.grant.id) is not None


async def test_a_use_that_is_not_admitted_uses_nothing_up_and_reuse_is_revoked_all_the_same(database: Database) -> None:
    seeded = await seed(database)
    token, request = await _issue(database, seeded), RefreshRequest("agent-1")

    async def use(token: str, *, now: int, is_admitted: bool) -> AcceptedRefresh:
        def admit(grant: Grant) -> None:
            assert grant.id == seeded.grant.id
            if not is_admitted:
                raise TemporarilyUnavailable("too many requests")

        return await tokens.rotate(database, token, request=request, now=now, lifetimes=LIFETIMES, admit=admit)

    with pytest.raises(TemporarilyUnavailable):
        await use(token, now=NOW, is_admitted=False)
    successor = (await use(token, now=NOW, is_admitted=True)).refresh_token
    assert await use(successor, now=NOW, is_admitted=True)
    with pytest.raises(TokenReused):
        await use(token, now=NOW + GRACE, is_admitted=False)
    assert await _live(database) == 0


@pytest.mark.requirement("S-082")
async def test_near_misses_of_a_token_do_not_work_and_do_not_burn_it(database: Database) -> None:
    seeded = await seed(database)
    first = await _issue(database, seeded)
    for bent in ("", first[:-1], first + "A", first.swapcase(), f" {first}", f"{first}\n", first[::-1], "\ud800"):
        with pytest.raises(tokens.RefreshTokenRefused):
            await _rotate(database, bent)
    assert not (await _rotate(database, first)).is_repeat


@pytest.mark.requirement("S-078")
async def test_a_refresh_may_ask_for_less_and_never_for_more_than_its_token_has(database: Database) -> None:
    seeded = await seed(database)
    held = frozenset({"tools", "offline_access"})  # fewer than the grant has
    both = f"{RESOURCE} https://api.example"
    first = await _issue(database, seeded, scopes=held, resource=both)
    with pytest.raises(ScopeRefused) as refused:
        await _rotate(database, first, request=RefreshRequest("agent-1", scopes=SCOPES))
    assert refused.value.missing == {"connections"}
    narrow = RefreshRequest("agent-1", scopes=frozenset({"tools"}), resource="https://api.example")
    second = await _rotate(database, first, request=narrow)
    assert (second.scopes, second.resource) == (frozenset({"tools"}), "https://api.example")
    third = await _rotate(database, second.refresh_token)  # RFC 6749 §6: the token itself keeps its scopes
    assert (third.scopes, third.resource) == (held, both)


@pytest.mark.requirement("S-081")
async def test_an_honest_repeat_within_the_grace_gets_the_same_successor(database: Database) -> None:
    seeded = await seed(database)
    first = await _issue(database, seeded)
    second = await _rotate(database, first)
    for now in (NOW, NOW + 1, NOW + GRACE - 1):
        again = await _rotate(database, first, now=now)
        assert again.is_repeat
        assert again.refresh_token == second.refresh_token
        assert again.scopes == second.scopes
    assert await _live(database) == 1
    assert not (await _rotate(database, second.refresh_token, now=NOW + GRACE)).is_repeat


@pytest.mark.requirement("S-081")
async def test_a_repeat_by_another_client_or_for_more_scopes_is_refused_and_kills_nothing(database: Database) -> None:
    seeded = await seed(database)
    await seed(database, name="bob", client_id="agent-2")
    first = await _issue(database, seeded)
    second = await _rotate(database, first)
    with pytest.raises(tokens.RefreshTokenRefused):
        await _rotate(database, first, request=RefreshRequest("agent-2"))
    with pytest.raises(ScopeRefused):
        await _rotate(database, first, request=RefreshRequest("agent-1", scopes=SCOPES | {"exchange"}))
    assert (await _rotate(database, first)).refresh_token == second.refresh_token


async def _assert_dead(database: Database, seeded: SeededGrant, *held: str) -> None:
    ended = await get_grant(database, seeded.grant.id)
    assert ended is not None
    assert ended.revoked_reason == "refresh_token_reused"
    assert await grants.live_principal_facts(database, seeded.grant.id) is None
    assert await _live(database) == 0
    assert await _count_sealed(database) == 0
    for token in held:
        with pytest.raises(tokens.RefreshTokenRefused):
            await _rotate(database, token, now=NOW + GRACE + 1)
    events = await audit.list_events(database, user_id=seeded.user.id)
    assert [(event.kind, event.details["reason"]) for event in events] == [("grant.revoked", "refresh_token_reused")]


@pytest.mark.requirement("S-079", "S-081")
async def test_any_predecessor_gets_the_newest_token_until_a_grace_after_it_was_spent(database: Database) -> None:
    seeded = await seed(database)
    held = [await _issue(database, seeded)]
    for step in range(5):
        held.append((await _rotate(database, held[-1], now=NOW + step)).refresh_token)
    for step, old in enumerate(held[:-1]):
        again = await _rotate(database, old, now=NOW + GRACE - 1)
        assert again.refresh_token == held[-1]
        assert again.repetition is not None
        assert (again.repetition.age, again.repetition.generations) == (GRACE - 1 - step, 5 - step)
    assert await _live(database) == 1
    with pytest.raises(TokenReused) as refused:
        await _rotate(database, held[0], now=NOW + GRACE)
    assert (refused.value.grant, refused.value.verdict) == (seeded.grant, RepeatVerdict.LATE)
    assert held[0] not in f"{refused.value!r} {refused.value.detail}"
    await _assert_dead(database, seeded, *held)


@pytest.mark.requirement("S-081")
async def test_a_client_that_lost_the_answer_gets_it_again_whenever_it_comes_back(database: Database) -> None:
    seeded = await seed(database)
    first = await _issue(database, seeded)
    lost = await _rotate(database, first)
    for later in (GRACE, DAY, 29 * DAY):
        assert (await _rotate(database, first, now=NOW + later)).refresh_token == lost.refresh_token
    used = await _rotate(database, lost.refresh_token, now=NOW + 30 * DAY)  # from now on, it is known to be received
    with pytest.raises(TokenReused):
        await _rotate(database, first, now=NOW + 30 * DAY)
    await _assert_dead(database, seeded, first, used.refresh_token)


HOME, OFFICE, AWAY = "198.51.0.0/16", "203.0.0.0/16", "192.0.0.0/16"


def _from(network: str | None, *, is_authenticated: bool = False) -> RefreshRequest:
    return RefreshRequest("agent-1", network=network, is_authenticated=is_authenticated)


@pytest.mark.requirement("S-079")
async def test_two_networks_that_use_one_token_end_the_family(database: Database) -> None:
    seeded = await seed(database)
    token = await _issue(database, seeded)
    for now in (NOW, NOW + DAY):  # a laptop that changes networks
        newest = await _rotate(database, token, now=now, request=_from(HOME))
        again = await _rotate(database, token, now=now + GRACE - 1, request=_from(AWAY))
        assert again.refresh_token == newest.refresh_token
        assert again.repetition is not None
        assert again.repetition.verdict is RepeatVerdict.MOVED
        token = newest.refresh_token
    newest = await _rotate(database, token, now=NOW + 2 * DAY, request=_from(AWAY))  # this network stays unknown
    with pytest.raises(TokenReused) as refused:
        await _rotate(database, token, now=NOW + 2 * DAY + 1, request=_from(HOME))
    assert refused.value.verdict is RepeatVerdict.ELSEWHERE
    await _assert_dead(database, seeded, newest.refresh_token)


@pytest.mark.parametrize(
    "request_", [_from(HOME), _from("2001:db8::/32"), _from(None), _from(AWAY, is_authenticated=True), _from(OFFICE)]
)
async def test_the_same_repeat_is_answered_where_the_uses_do_not_contradict(
    database: Database, request_: RefreshRequest
) -> None:
    seeded = await seed(database)
    token = await _issue(database, seeded)
    for network in (HOME, OFFICE, HOME):  # these are known from before
        token = (await _rotate(database, token, request=_from(network))).refresh_token
    for day in range(4):
        now = NOW + day * DAY
        newest = await _rotate(database, token, now=now, request=_from(HOME))
        again = await _rotate(database, token, now=now + 1, request=request_)
        assert again.refresh_token == newest.refresh_token
        assert again.repetition is not None
        assert again.repetition.verdict is RepeatVerdict.SAME
        token = newest.refresh_token


@pytest.mark.requirement("S-079")
async def test_a_token_bound_to_a_key_is_repeated_for_half_a_minute_and_only_while_its_successor_is_unused(
    database: Database,
) -> None:
    bound = RefreshRequest("agent-1", key_thumbprint="jkt-1")
    seeded = await seed(database)
    first = await _issue(database, seeded, key_thumbprint="jkt-1")
    second = await _rotate(database, first, request=bound)
    assert (await _rotate(database, first, now=NOW + 29, request=bound)).refresh_token == second.refresh_token
    await _rotate(database, second.refresh_token, now=NOW + 29, request=bound)
    with pytest.raises(TokenReused) as refused:
        await _rotate(database, first, now=NOW + 29, request=bound)
    assert refused.value.verdict is RepeatVerdict.BOUND
    await _assert_dead(database, seeded, second.refresh_token)


@pytest.mark.requirement("S-079")
async def test_without_a_grace_a_token_counts_once(database: Database) -> None:
    seeded = await seed(database)
    first, request = await _issue(database, seeded), RefreshRequest("agent-1")
    strict = replace(LIFETIMES, grace=0)
    second = await tokens.rotate(database, first, request=request, now=NOW, lifetimes=strict)
    with pytest.raises(TokenReused):
        await tokens.rotate(database, first, request=request, now=NOW, lifetimes=strict)
    await _assert_dead(database, seeded, second.refresh_token)


@pytest.mark.requirement("S-079")
async def test_an_old_token_kills_the_family_although_its_own_idle_time_is_over(database: Database) -> None:
    seeded = await seed(database)
    token = first = await _issue(database, seeded)
    for day in (20, 40):
        token = (await _rotate(database, token, now=NOW + day * DAY)).refresh_token
    with pytest.raises(TokenReused):
        await _rotate(database, first, now=NOW + 41 * DAY)
    await _assert_dead(database, seeded, token)


async def test_killing_one_family_leaves_other_grants_of_the_same_client_alone(database: Database) -> None:
    alice, bob = await seed(database), await seed(database, name="bob", client_id="agent-2")
    first, others = await _issue(database, alice), await _issue(database, bob)
    await _rotate(database, (await _rotate(database, first)).refresh_token)
    with pytest.raises(TokenReused):
        await _rotate(database, first, now=NOW + GRACE)
    assert await _rotate(database, others, request=RefreshRequest("agent-2"))


@pytest.mark.requirement("S-080")
async def test_twenty_parallel_uses_leave_one_live_successor_and_all_get_it(database: Database) -> None:
    seeded = await seed(database)
    token = await _issue(database, seeded)
    for _ in range(3):
        answers = await asyncio.gather(*(_rotate(database, token) for _ in range(20)))
        assert len({answer.refresh_token for answer in answers}) == 1
        assert sum(not answer.is_repeat for answer in answers) == 1
        assert await _live(database) == 1
        token = answers[0].refresh_token


@pytest.mark.requirement("S-080")
async def test_predecessor_and_successor_used_in_parallel_leave_at_most_one_live_token(database: Database) -> None:
    seeded = await seed(database)
    first = await _issue(database, seeded)
    second = (await _rotate(database, first)).refresh_token
    answers = await asyncio.gather(
        *(_rotate(database, first if n % 2 else second) for n in range(20)), return_exceptions=True
    )
    assert all(isinstance(answer, AcceptedRefresh | tokens.RefreshTokenRefused) for answer in answers)
    assert await _live(database) <= 1


@pytest.mark.requirement("S-081")
async def test_the_sealed_successor_is_erased_when_it_was_used_and_the_grace_has_ended(database: Database) -> None:
    seeded = await seed(database)
    first = await _issue(database, seeded)
    second = await _rotate(database, first)
    third = await _rotate(database, second.refresh_token)
    assert await _count_sealed(database) == 2

    async def sweep(now: int) -> int:
        async with database.transaction() as transaction:
            return await tokens.sweep_tokens(transaction, now=now, lifetimes=LIFETIMES)

    assert await sweep(NOW + GRACE - 1) == 0
    assert await sweep(NOW + GRACE) == 1
    rows = await database.fetch("select generation from refresh_tokens where successor_sealed is not null")
    assert [row["generation"] for row in rows] == [2]  # nobody has used the third one
    await _rotate(database, third.refresh_token, now=NOW + GRACE)
    rows = await database.fetch("select generation from refresh_tokens where successor_sealed is not null")
    assert [row["generation"] for row in rows] == [3]
    assert await sweep(NOW + 366 * DAY - 1) == 0
    assert await sweep(NOW + 366 * DAY) == 4


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_repeat_whose_newest_token_is_lost_ends_the_grant(database: Database, lost: int) -> None:
    seeded = await seed(database)
    held = [await _issue(database, seeded)]
    for _ in range(3):
        held.append((await _rotate(database, held[-1])).refresh_token)
    assert (await _rotate(database, held[0])).refresh_token == held[-1]
    async with database.transaction() as transaction:
        await transaction.execute("delete from refresh_tokens where generation = :lost", {"lost": lost + 1})
    with pytest.raises(TokenReused):
        await _rotate(database, held[0])
    await _assert_dead(database, seeded, held[0])


@pytest.mark.requirement("S-081")
async def test_a_successor_moved_to_another_row_does_not_open(database: Database) -> None:
    seeded = await seed(database)
    first, other = await _issue(database, seeded), await _issue(database, seeded)
    await _rotate(database, first)
    await _rotate(database, other)
    async with database.transaction() as transaction:
        rows = await transaction.fetch(
            "select token_hash, successor_sealed from refresh_tokens where successor_sealed is not null"
        )
        for mine, its in ((rows[0], rows[1]), (rows[1], rows[0])):
            await transaction.execute(
                "update refresh_tokens set successor_sealed = :sealed where token_hash = :token_hash",
                {"sealed": its["successor_sealed"], "token_hash": mine["token_hash"]},
            )
    for token in (first, other):
        with pytest.raises(VaultError):
            await _rotate(database, token)


@pytest.mark.requirement("S-083")
async def test_a_token_dies_after_90_idle_days_and_not_a_second_earlier(database: Database) -> None:
    seeded = await seed(database)
    idle, used = await _issue(database, seeded), await _issue(database, seeded)
    with pytest.raises(tokens.RefreshTokenRefused):
        await _rotate(database, idle, now=NOW + 90 * DAY)
    assert await tokens.find_live(database, idle, now=NOW + 90 * DAY) is None
    assert await tokens.find_live(database, used, now=NOW + 90 * DAY - 1) is not None
    await _rotate(database, used, now=NOW + 90 * DAY - 1)


@pytest.mark.requirement("S-083")
async def test_a_family_dies_after_a_year_however_busy_it_is(database: Database) -> None:
    seeded = await seed(database)
    token = await _issue(database, seeded)
    for day in (80, 160, 240, 320):
        token = (await _rotate(database, token, now=NOW + day * DAY)).refresh_token
    late = await _rotate(database, token, now=NOW + 365 * DAY - 1)
    assert late.expires_at == NOW + 365 * DAY
    with pytest.raises(tokens.RefreshTokenRefused) as refused:
        await _rotate(database, late.refresh_token, now=NOW + 365 * DAY)
    assert not isinstance(refused.value, TokenReused)


@pytest.mark.requirement("S-083")
@pytest.mark.parametrize(
    "holder", [RefreshRequest("agent-1", is_authenticated=True), RefreshRequest("agent-1", key_thumbprint="jkt-1")]
)
async def test_the_end_moves_on_for_a_client_that_proves_more_than_the_token(
    database: Database, holder: RefreshRequest
) -> None:
    seeded = await seed(database)
    token = await _issue(database, seeded, key_thumbprint=holder.key_thumbprint)
    for day in range(80, 800, 80):
        rotated = await _rotate(database, token, now=NOW + day * DAY, request=holder)
        token = rotated.refresh_token
        assert rotated.expires_at == NOW + (day + 90) * DAY


async def test_lifetimes_are_the_operators_to_set(database: Database) -> None:
    seeded = await seed(database)
    short = Lifetimes(absolute=600, idle=100, grace=5)
    first = await _issue(database, seeded, lifetimes=short)
    assert await tokens.find_live(database, first, now=NOW + 99) is not None
    assert await tokens.find_live(database, first, now=NOW + 100) is None
    request = RefreshRequest("agent-1")
    second = await tokens.rotate(database, first, request=request, now=NOW, lifetimes=short)
    await tokens.rotate(database, second.refresh_token, request=request, now=NOW, lifetimes=short)
    await tokens.rotate(database, first, request=request, now=NOW + 4, lifetimes=short)
    with pytest.raises(TokenReused):
        await tokens.rotate(database, first, request=request, now=NOW + 5, lifetimes=short)


async def test_a_token_bound_to_a_key_works_with_this_key_only_and_stays_bound(database: Database) -> None:
    seeded = await seed(database)
    token = await _issue(database, seeded, key_thumbprint="jkt-1")
    for _ in range(2):
        for wrong in (None, "jkt-2"):
            with pytest.raises(tokens.RefreshTokenRefused):
                await _rotate(database, token, request=RefreshRequest("agent-1", key_thumbprint=wrong))
        rotated = await _rotate(database, token, request=RefreshRequest("agent-1", key_thumbprint="jkt-1"))
        assert rotated.key_thumbprint == "jkt-1"
        token = rotated.refresh_token


@pytest.mark.requirement("S-084")
async def test_revocation_ends_the_grant_for_its_own_client_only(database: Database) -> None:
    seeded = await seed(database)
    first = await _issue(database, seeded)
    second = (await _rotate(database, first)).refresh_token
    async with database.transaction() as transaction:
        assert await tokens.revoke_token(transaction, second, client_id="agent-2", now=NOW) is None
        assert await tokens.revoke_token(transaction, "unknown", client_id="agent-1", now=NOW) is None
    assert await grants.live_principal_facts(database, seeded.grant.id) is not None
    async with database.transaction() as transaction:
        ended = await tokens.revoke_token(transaction, first, client_id="agent-1", now=NOW)  # an older generation, too
        assert await tokens.revoke_token(transaction, second, client_id="agent-1", now=NOW) is None
    assert ended == replace(seeded.grant, revoked_at=NOW, revoked_reason="token_revoked")
    assert await grants.live_principal_facts(database, seeded.grant.id) is None
    assert await _count_sealed(database) == 0
    for token in (first, second):
        with pytest.raises(tokens.RefreshTokenRefused):
            await _rotate(database, token)


async def test_a_used_token_is_known_but_not_live(database: Database) -> None:
    seeded = await seed(database)
    first = await _issue(database, seeded)
    live = await tokens.find_live(database, first, now=NOW)
    assert live is not None
    assert live[1].grant == seeded.grant
    await _rotate(database, first)
    assert await tokens.find(database, first) is not None
    assert await tokens.find_live(database, first, now=NOW) is None
    assert await tokens.find(database, "unknown") is None


@pytest.mark.parametrize(
    ("grace", "key_thumbprint", "seconds"), [(600, None, 600), (600, "key", 30), (20, "key", 20), (0, None, 0)]
)
async def test_a_used_token_that_is_only_shown_counts_within_the_grace(
    database: Database, grace: int, key_thumbprint: str | None, seconds: int
) -> None:
    token = await _issue(database, await seed(database), key_thumbprint=key_thumbprint)
    await _rotate(database, token, request=RefreshRequest("agent-1", key_thumbprint=key_thumbprint))
    for passed, is_live in ((seconds - 1, True), (seconds, False)):
        assert (await tokens.find_live(database, token, now=NOW + passed, grace=grace) is not None) is is_live


async def test_an_agent_is_in_use_that_got_a_grant_or_refreshed_since(database: Database) -> None:
    seeded, other = await seed(database), await seed(database, name="bob", client_id="agent-2")
    token = await _issue(database, seeded)
    await _rotate(database, token, now=NOW + 50)

    async def is_any_fresh(*client_ids: str, since: int, whose: SeededGrant = seeded) -> bool:
        return await tokens.is_any_fresh(database, whose.user.id, client_ids=frozenset(client_ids), since=since)

    assert await is_any_fresh("agent-1", since=NOW + 49)
    assert await is_any_fresh("agent-0", "agent-1", "agent-2", since=NOW + 49)
    assert not await is_any_fresh("agent-1", since=NOW + 50)
    assert not await is_any_fresh("agent-0", "agent-2", since=NOW + 49)
    assert await is_any_fresh("agent-2", since=NOW - 1, whose=other)  # it has only a grant
    assert not await is_any_fresh("agent-2", since=NOW, whose=other)


async def test_a_family_keeps_its_last_256_generations_and_an_older_token_is_only_refused(database: Database) -> None:
    seeded = await seed(database)
    held = [await _issue(database, seeded)]
    for _ in range(5):
        held.append((await _rotate(database, held[-1])).refresh_token)
    async with database.transaction() as transaction:
        await transaction.execute("update refresh_tokens set generation = 258 where generation = 6")
    held.append((await _rotate(database, held[-1])).refresh_token)
    rows = await database.fetch("select generation from refresh_tokens order by generation")
    assert [row["generation"] for row in rows] == [4, 5, 258, 259]
    with pytest.raises(tokens.RefreshTokenRefused):
        await _rotate(database, held[2])
    held.append((await _rotate(database, held[-1])).refresh_token)  # the grant is live
    with pytest.raises(tokens.TokenReused):
        await _rotate(database, held[4], now=NOW + GRACE)


@pytest.mark.requirement("S-080", "S-081")
async def test_replicas_agree_on_the_newest_token_and_on_the_end(store: Store) -> None:
    one, two = await store.open(), await store.open()
    try:
        seeded = await seed(one)
        token = first = await _issue(one, seeded)
        for turn in range(4):
            replicas = [one, two] * 6
            answers = await asyncio.gather(*(_rotate(replica, token, now=NOW + turn) for replica in replicas))
            assert len({answer.refresh_token for answer in answers}) == 1
            assert sum(not answer.is_repeat for answer in answers) == 1
            assert await _live(two) == 1
            token = answers[0].refresh_token
        assert (await _rotate(two, first, now=NOW + GRACE - 1)).refresh_token == token
        with pytest.raises(TokenReused):
            await _rotate(two, first, now=NOW + GRACE)
        with pytest.raises(tokens.RefreshTokenRefused):
            await _rotate(one, token, now=NOW + GRACE)
        await _assert_dead(one, seeded, token)
    finally:
        await one.close()
        await two.close()
