"""RFC 8693 §4.1, §4.4: tokens for our own audiences that state who acts."""

from __future__ import annotations

import pytest
from joserfc.jwk import ECKey

from tests.support.inspection import get_grant
from tests.support.rooms.exchange_room import ACCESS, API, JWT, REFRESH, ExchangeRoom, refusal_code
from tests.support.rooms.oauth_world import claims_of, sign_jwt
from vault import grants
from vault.exchange.exchange import thumbprint

KEY = ECKey.generate_key("P-256", parameters={"kid": "actor"})

# On behalf of: our own audiences


@pytest.mark.requirement("S-112", "S-113", "S-114")
async def test_an_api_gets_a_token_for_another_api_that_says_who_acts(place: ExchangeRoom, person: str) -> None:
    spa, front = await place.caller(public=True), await place.caller(resources=("https://back.example/",))
    await place.link(front)
    await place.link(await place.caller(), "https://back.example/", scopes=frozenset({"invoices.read", "other"}))
    scopes = frozenset({"exchange", "tools", "invoices.read", "openid"})
    received = await place.agent(spa, person, audience=API, scopes=scopes)
    for audience in ({"audience": "https://back.example/"}, {"audience": None, "resource": "https://back.example/"}):
        answer = await place.exchange(front, received.token, **audience, scope="invoices.read")
        assert answer.status_code == 200, answer.text
        content = answer.json()
        assert content.keys() == {"access_token", "issued_token_type", "token_type", "expires_in", "scope"}
        claims = claims_of(content["access_token"])
        assert claims["aud"] == "https://back.example/"
        assert claims["sub"] == received.principal.user_id
        assert claims["client_id"] == claims["azp"] == front.client.id
        assert claims["act"] == {"sub": front.client.id, "act": {"sub": spa.client.id}}
        assert claims["scope"] == content["scope"] == "invoices.read"
        assert claims["exp"] <= claims_of(received.token)["exp"]
        assert not claims.keys() & {"amr", "auth_time"}, "no API signed in"
        issued = [one for one in await place.events("token.issued") if one.client_id == front.client.id][-1]
        assert issued.details["token_thumbprint"] == thumbprint(content["access_token"])
        assert issued.details["actors"] == [front.client.id, spa.client.id]
        grant = await get_grant(place.deployment.database, str(issued.details["grant"]))
        assert grant is not None
        assert (grant.client_id, issued.details["subject"]) == (front.client.id, "access_token")
    (derived,) = [one for one in await place.events("grant.derived") if one.client_id == front.client.id]
    assert (derived.details["resource"], set(str(claims_of(received.token)["scope"]).split())) == (
        API,
        set(derived.details["scopes"]),  # pyright: ignore[reportArgumentType] -- a list
    )
    everything = await place.exchange(front, received.token, audience="https://back.example/")
    assert everything.json()["scope"] == "exchange invoices.read tools"
    wider = await place.exchange(front, received.token, audience="https://back.example/", scope="other tools")
    assert refusal_code(wider) == "invalid_scope"
    assert wider.json()["missing_scope"] == "other"


@pytest.mark.requirement("S-112")
async def test_an_audience_that_the_client_may_not_call_is_refused(place: ExchangeRoom, person: str) -> None:
    await place.link(await place.caller(), "https://back.example/")
    for resources, code in (((), "invalid_target"), (("https://back.example/",), None)):
        caller = await place.caller(resources=resources)
        agent = await place.agent(caller, person, audience=f"{place.url}/mcp")
        answer = await place.exchange(caller, agent.token, audience="https://back.example/")
        assert (refusal_code(answer) if code else answer.status_code) == (code or 200)


@pytest.mark.requirement("S-115")
async def test_exchanging_again_and_again_wins_neither_time_nor_scope(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    first = claims_of(agent.token)
    token, database = agent.token, place.deployment.database
    try:
        for hop in range(12):
            database.clock_offset += 60
            answer = await place.exchange(caller, token, audience=f"{place.url}/mcp")
            assert answer.status_code == 200, f"{hop}: {answer.text}"
            assert set(answer.json()["scope"].split()) <= set(str(first["scope"]).split())
            token = answer.json()["access_token"]
            claims = claims_of(token)
            assert claims["exp"] <= first["exp"]
            assert claims["act"] == {"sub": caller.client.id}
        database.clock_offset += 3600 - 12 * 60
        answer = await place.exchange(caller, token, audience=f"{place.url}/mcp")
        assert refusal_code(answer) == "invalid_request"
    finally:
        database.clock_offset = 0


@pytest.mark.requirement("S-114")
async def test_a_chain_ends_after_four(place: ExchangeRoom, person: str) -> None:
    spa = await place.caller(public=True)
    names = [f"https://hop-{number}.example/" for number in range(6)]
    hops = [await place.caller(resources=(*names,)) for _ in names]
    for hop, name in zip(hops, names, strict=True):
        await place.link(hop, name)
    token = (await place.agent(spa, person, audience=names[0])).token
    for number in range(3):
        answer = await place.exchange(hops[number], token, audience=names[number + 1])
        assert answer.status_code == 200, answer.text
        token = answer.json()["access_token"]
    assert refusal_code(await place.exchange(hops[3], token, audience=names[4])) == "invalid_request"
    assert refusal_code(await place.exchange(hops[3], token, scope="chat:write")) == "invalid_request"


# Actor tokens


@pytest.mark.requirement("S-114")
async def test_an_actor_token_puts_its_client_outermost(place: ExchangeRoom, person: str) -> None:
    gateway, agent_client = await place.caller(resources=("https://back.example/",)), await place.caller(public=True)
    await place.link(await place.caller(), "https://back.example/")
    await place.link(gateway)
    mine = await place.agent(gateway, person)
    acting = await place.agent(agent_client, person, audience=API)
    good = {"audience": "https://back.example/", "actor_token": acting.token, "actor_token_type": ACCESS}
    answer = await place.exchange(gateway, mine.token, **good)
    assert answer.status_code == 200, answer.text
    assert claims_of(answer.json()["access_token"])["act"] == {
        "sub": agent_client.client.id,
        "act": {"sub": gateway.client.id},
    }
    other_user = await place.agent(agent_client, f"{person}-2", audience=API)
    elsewhere = await place.agent(agent_client, person)
    bad: list[dict[str, str | None]] = [
        {"actor_token_type": None},
        {"actor_token": None},
        {"actor_token_type": REFRESH},
        {"actor_token_type": JWT},
        {"actor_token": "a.b.c"},
        {"actor_token": other_user.token},
        {"actor_token": elsewhere.token},
    ]
    for change in bad:
        assert refusal_code(await place.exchange(gateway, mine.token, **(good | change))) == "invalid_request", change
    async with place.deployment.transaction() as transaction:
        await grants.revoke_grant(transaction, acting.principal.grant_id, reason="test", now=place.now())
    assert refusal_code(await place.exchange(gateway, mine.token, **good)) == "invalid_request"


@pytest.mark.requirement("S-114")
@pytest.mark.parametrize(("changes", "counts"), [({}, True), ({"sub": "nobody"}, False), ({"sub": 1}, False)])
async def test_an_actor_may_sign_its_own_token(
    place: ExchangeRoom, person: str, changes: dict[str, object], *, counts: bool
) -> None:
    caller = await place.caller()
    signer = await place.caller(auth_method="private_key_jwt", jwks={"keys": [KEY.as_dict(private=False)]})
    agent, own = await place.agent(caller, person), signer.client.id
    claims = {"iss": own, "sub": own, "aud": place.url, "exp": place.now() + 60, "jti": f"{person} {changes}"}
    signed = sign_jwt({"alg": "ES256", "kid": KEY.kid}, claims | changes, KEY)
    sent = {"audience": f"{place.url}/mcp", "actor_token": signed, "actor_token_type": JWT}
    answer = await place.exchange(caller, agent.token, **sent)
    if counts:
        assert claims_of(answer.json()["access_token"])["act"] == {"sub": own, "act": {"sub": caller.client.id}}
    assert refusal_code(await place.exchange(caller, agent.token, **sent)) == "invalid_request", "it is used up"


@pytest.mark.requirement("S-114")
async def test_no_parameter_dictates_the_chain(place: ExchangeRoom, person: str) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, person)
    answer = await place.exchange(
        caller, agent.token, audience=f"{place.url}/mcp", act='{"sub":"x"}', actor="x", azp="x", sub="x", may_act="x"
    )
    claims = claims_of(answer.json()["access_token"])
    assert claims["act"] == {"sub": caller.client.id}
    assert (claims["sub"], claims["azp"]) == (agent.principal.user_id, caller.client.id)
