"""One comparison of issuers everywhere: a slash at the end counts (RFC 8414 §3.3, RFC 9207 §2.4, OpenID Connect)."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import httpx2
import pytest

from providers.definitions.catalog import load_catalog
from providers.definitions.discovery import DiscoveryFailed, find_endpoints
from providers.definitions.issuers import NoMetadata, fetch_metadata, is_same_issuer, metadata_urls
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from server.connecting.provider_authorization import is_issuer_of
from tests.support.doubles.openid_double import OUTAGES, Claims, OpenIDDouble, running_openid
from tests.support.person import Person
from tests.support.rooms.exchange_room import JWT, Caller, ExchangeRoom, exchange_room, refusal_code
from vault import users

AUDIENCE = "api://vault"
Door = Callable[[ExchangeRoom, OpenIDDouble, str, str], Awaitable[bool]]


@pytest.fixture(scope="module")
async def provider() -> AsyncGenerator[OpenIDDouble]:
    """A provider whose issuer actually ends in a slash."""
    async with running_openid(lambda: int(time.time())) as double:
        yield double


@pytest.fixture(scope="module")
async def place(provider: OpenIDDouble, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ExchangeRoom]:
    """A vault that knows the issuer with its slash (`right`) and without (`wrong`), for sign-in and external tokens."""
    names = {"right": f"{provider.url}/", "wrong": provider.url}
    people = {name: provider.settings() | {"issuer": issuer} for name, issuer in names.items()}
    issuers = {name: {"issuer": issuer, "audience": AUDIENCE} for name, issuer in names.items()}
    async with exchange_room(
        tmp_path_factory.mktemp("issuers") / "data",
        issuers=issuers,
        sign_in={"openid": people},
        sandbox={"loopback_openid": True},
    ) as opened:
        yield opened


@pytest.fixture(autouse=True)
def slash(provider: OpenIDDouble) -> None:
    provider.reset()
    issuer = f"{provider.url}/"
    userinfo = f"{provider.url}/userinfo"
    provider.change_metadata = lambda metadata: {**metadata, "userinfo_endpoint": userinfo, "issuer": issuer}
    provider.change_claims = lambda claims: {**claims, "iss": issuer}
    provider.change_callback = lambda query: {**query, "iss": issuer}


async def _connect(place: ExchangeRoom, provider: OpenIDDouble, name: str, claimed: str) -> bool:
    """Connect as an upstream provider that settings identify by its issuer."""
    issuer = provider.url + ("/" if name == "right" else "")
    provider.change_metadata = _with_issuer(provider, claimed)
    async with Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        try:
            await find_endpoints(issuer, outbound)
        except DiscoveryFailed as failed:
            assert "write it exactly like that" in str(failed)
            return False
    return True


def _with_issuer(provider: OpenIDDouble, claimed: str) -> Callable[[Claims], Claims]:
    before = provider.change_metadata
    return lambda metadata: {**before(metadata), "issuer": claimed}


async def _sign_in(place: ExchangeRoom, provider: OpenIDDouble, name: str, claimed: str) -> bool:
    provider.now = place.now
    provider.change_claims = lambda claims: {**claims, "iss": claimed}
    async with Person(place.url) as person, httpx2.AsyncClient(timeout=30) as http:
        begun = await person.http.get(f"/sign-in/openid/{name}")
        if begun.status_code != 303:
            return False
        back = await http.get(begun.headers["location"])
        return (await person.open(back.headers["location"])).status_code == 200


async def _exchange(place: ExchangeRoom, provider: OpenIDDouble, name: str, claimed: str) -> bool:
    caller: Caller = await place.caller()
    agent = await place.agent(caller)
    await place.slack(agent)
    user = await place.user()
    for issuer in (provider.url, f"{provider.url}/"):
        if await users.find_by_identity(place.deployment.database, issuer=issuer, subject="employee") is None:
            async with place.deployment.transaction() as transaction:
                await users.link_identity(
                    transaction, issuer=issuer, subject="employee", user_id=user.id, now=place.now()
                )
    now = place.now()
    claims: Claims = {"iss": claimed, "sub": "employee", "aud": AUDIENCE, "iat": now, "exp": now + 300}
    answer = await place.exchange(
        caller, provider.sign_claims(claims | {"scope": "exchange"}), kind=JWT, scope="chat:write"
    )
    if answer.status_code == 200:
        return True
    assert refusal_code(answer) == "invalid_request"
    return False


_CASES = [("right", "/", True), ("right", "", False), ("wrong", "/", False)]


@pytest.mark.requirement("S-119")
@pytest.mark.parametrize(
    ("door", "name", "end", "counts"),
    [
        *((_connect, *case) for case in _CASES),
        *((_sign_in, *case) for case in _CASES),
        *((_exchange, *case) for case in _CASES[:2]),  # this vault trusts both issuers: the last would be the other
    ],
)
async def test_an_issuer_that_ends_in_a_slash_is_that_one_and_no_other(
    place: ExchangeRoom, provider: OpenIDDouble, door: Door, name: str, end: str, counts: bool
) -> None:
    assert await door(place, provider, name, provider.url + end) == counts


@pytest.mark.requirement("S-119")
@pytest.mark.parametrize("promised", ["https://id.example", "https://id.example/"])
def test_the_issuer_of_an_authorization_response_is_compared_in_the_same_way(promised: str) -> None:
    provider = load_catalog().provider("google")
    asked = provider.model_copy(update={"hosts": provider.hosts.model_copy(update={"issuer": promised})})
    assert is_issuer_of(promised, asked)
    for other in ("https://id.example" + ("" if promised.endswith("/") else "/"), "https://ID.example", "", None):
        assert not is_issuer_of(other, asked)


def test_issuers_are_compared_letter_by_letter_and_found_at_two_addresses() -> None:
    assert is_same_issuer("https://id.example/a", "https://id.example/a")
    for other in ("https://id.example/a/", "https://ID.example/a", "https://id.example:443/a", "", None, 1, ["x"]):
        assert not is_same_issuer(other, "https://id.example/a")
    assert not is_same_issuer(None, None)
    for issuer in ("https://id.example/a", "https://id.example/a/"):
        assert metadata_urls(issuer) == (
            "https://id.example/a/.well-known/openid-configuration",
            "https://id.example/.well-known/oauth-authorization-server/a",
        )


async def test_an_issuer_that_is_no_openid_provider_is_found_where_rfc_8414_says(provider: OpenIDDouble) -> None:
    tenant = f"{provider.url}/tenant"
    provider.is_oauth_only = True
    provider.change_metadata = _with_issuer(provider, tenant)
    async with Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        assert (await fetch_metadata(tenant, outbound))["issuer"] == tenant
        assert provider.fetched == [
            "/tenant/.well-known/openid-configuration",
            "/.well-known/oauth-authorization-server/tenant",
        ]
        provider.change_metadata = _with_issuer(
            provider, provider.url
        )  # another tenant of the host answers for this one
        with pytest.raises(NoMetadata) as refusal:
            await fetch_metadata(tenant, outbound)
    assert (refusal.value.why, refusal.value.named) == ("issuer", provider.url)


async def test_metadata_of_another_issuer_ends_the_search(provider: OpenIDDouble) -> None:
    tenant = f"{provider.url}/tenant"
    provider.change_metadata = _with_issuer(provider, provider.url)
    async with Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        with pytest.raises(NoMetadata, match="issuer"):
            await fetch_metadata(tenant, outbound)
    assert provider.fetched == ["/tenant/.well-known/openid-configuration"]


async def test_metadata_is_remembered_for_who_accepts_that_and_only_so_long(provider: OpenIDDouble) -> None:
    issuer = f"{provider.url}/tenant"
    provider.change_metadata = _with_issuer(provider, issuer)
    async with Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        for now, asked in ((1000, 1), (1299, 1), (1300, 2), (1200, 3)):  # the last one: the clock was set back
            await fetch_metadata(issuer, outbound, now=now, max_age=300)
            assert len(provider.fetched) == asked
        await fetch_metadata(issuer, outbound, now=1201)
        assert len(provider.fetched) == 4


@pytest.mark.parametrize("outage", OUTAGES)
async def test_metadata_counts_for_an_hour_while_the_issuer_publishes_none(provider: OpenIDDouble, outage: str) -> None:
    issuer = f"{provider.url}/tenant"
    provider.change_metadata = _with_issuer(provider, issuer)
    async with Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        said = await fetch_metadata(issuer, outbound, now=1000, max_age=300)
        provider.broken = outage
        with pytest.raises(NoMetadata):
            await fetch_metadata(issuer, outbound, now=1001)  # a caller that remembers nothing
        provider.fetched.clear()
        for now, asked in ((1299, 0), (1300, 1), (1329, 1), (1330, 2), (4599, 3)):
            assert await fetch_metadata(issuer, outbound, now=now, max_age=300) == said
            assert provider.fetched.count("/tenant/.well-known/openid-configuration") == asked, now
        for now in (4600, 1200):  # the hour is over, and setting the clock back doesn't start another
            with pytest.raises(NoMetadata):
                await fetch_metadata(issuer, outbound, now=now, max_age=300)
        provider.broken = ""
        assert await fetch_metadata(issuer, outbound, now=4601, max_age=300) == said


async def test_metadata_of_another_issuer_replaces_what_was_kept(provider: OpenIDDouble) -> None:
    issuer = f"{provider.url}/tenant"
    provider.change_metadata = _with_issuer(provider, issuer)
    async with Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        await fetch_metadata(issuer, outbound, now=1000, max_age=300)
        provider.change_metadata = _with_issuer(provider, provider.url)
        with pytest.raises(NoMetadata, match="issuer"):
            await fetch_metadata(issuer, outbound, now=1300, max_age=300)
        provider.broken = "unavailable"
        with pytest.raises(NoMetadata):
            await fetch_metadata(issuer, outbound, now=1301, max_age=300)


async def test_an_issuer_inside_is_not_spoken_to(provider: OpenIDDouble) -> None:
    async with Outbound(AddressPolicy()) as outbound:
        with pytest.raises(NoMetadata) as refusal:
            await fetch_metadata(provider.url, outbound)
    assert refusal.value.why == "unreachable"
    assert provider.fetched == []
