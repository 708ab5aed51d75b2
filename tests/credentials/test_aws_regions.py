"""An access key for several regions: a call may use only the regions that the person entered."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

import httpx2
import pytest
import pytest_asyncio

from providers.api.api import RuleRefused, TokenRejected, UpstreamAPI, UpstreamRefused
from providers.credentials.choices import ChoiceRefused, choice_at, choose
from providers.credentials.entered_values import pack
from providers.definitions.catalog import ProviderFileRefused, ProviderOverrides, load_catalog
from providers.definitions.model import Provider
from server.proxy.endpoint import CALLED_ADDRESS
from tests.credentials.test_aws import KEY_ID, SECRET, AwsRoom, aws_room
from tests.credentials.test_aws_tools import TOOLS
from tests.support.accounts import replace_token
from tests.support.doubles.scripted_server import json_reply
from tests.support.rooms.portal_room import accounts_of
from tests.support.rooms.proxy_room import ProxyHandle
from vault.upstream import ProbeOutcome

READ = frozenset({"s3:read"})
PUBLISHED = load_catalog().provider("aws")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[AwsRoom]:
    """A vault with the region in each host name, as at AWS."""
    async with aws_room(tmp_path_factory.mktemp("regions"), "{name}/{region}") as opened:
        yield opened


async def handle_for(room: AwsRoom, regions: str) -> ProxyHandle:
    user = await room.keys.user()
    return await room.keys.allow_agent(user, await room.connect_account(user, region=regions), READ)


async def signed_call(handle: ProxyHandle, region: str) -> httpx2.Response:
    scope = f"20261127/{region}/s3/aws4_request"
    signature = f"Credential={handle.value}/{scope}, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
    headers = {"authorization": f"AWS4-HMAC-SHA256 {signature}", "x-amz-date": "20261127T000000Z"}
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        return await http.get(f"{handle.base('s3')}/bucket", headers=headers)


def region_sent(room: AwsRoom) -> tuple[str, str]:
    """The host of the last call, and the region that it was signed for."""
    arrival = room.server.arrivals[-1]
    sent = {name.lower(): value for name, value in arrival.headers.items()}
    return arrival.path.split("/")[2], sent["authorization"].partition("Credential=")[2].split("/")[2]


async def test_an_sdk_s_region_is_used_if_the_person_entered_it(room: AwsRoom) -> None:
    handle = await handle_for(room, "eu-west-1, us-east-2")
    for region in ("us-east-2", "eu-west-1"):
        assert (await signed_call(handle, region)).status_code == 200
        assert region_sent(room) == (region, region)
    sent = len(room.server.arrivals)
    refused = await signed_call(handle, "us-west-2")
    assert (refused.status_code, refused.headers["token-vault-refusal"]) == (404, "unknown_target")
    assert "eu-west-1, us-east-2" in refused.text
    assert len(room.server.arrivals) == sent
    assert (await handle.call("GET", "/bucket", api="s3")).status_code == 200
    assert region_sent(room) == ("eu-west-1", "eu-west-1")


async def test_a_stored_key_that_cannot_be_read_is_told_like_a_dead_one(room: AwsRoom) -> None:
    handle = await handle_for(room, "eu-west-1")

    async def answers() -> list[httpx2.Response]:
        return [await signed_call(handle, "eu-west-1"), await handle.call("GET", "/bucket", api="s3")]

    assert [one.status_code for one in await answers()] == [200, 200]
    await replace_token(room.keys.deployment, handle.connection, "of an earlier form")
    told = [(one.status_code, one.headers["token-vault-refusal"]) for one in await answers()]
    assert told == [(502, "upstream_unauthorized")] * 2


async def test_a_program_s_host_chooses_the_region(room: AwsRoom) -> None:
    handle = await handle_for(room, "eu-west-1 us-east-2")
    for region, status in (("us-east-2", 200), ("eu-west-1", 200), ("us-west-2", 404)):
        headers = {CALLED_ADDRESS: f"{room.server.url}/s3/{region}"}
        assert (await handle.call("GET", "/bucket", api="s3", headers=headers)).status_code == status
        if status == 200:
            assert region_sent(room) == (region, region)


@pytest.mark.parametrize(
    ("address", "chosen"),
    [
        ("https://s3.eu-west-1.amazonaws.com", {"region": "eu-west-1"}),
        ("https://s3.eu-west-1.evil.example", {}),
        ("https://s3.a.b.amazonaws.com", {}),
        ("https://proxy.example/s3", {}),
    ],
)
def test_only_an_address_of_the_file_s_form_chooses(address: str, chosen: dict[str, str]) -> None:
    assert choice_at(PUBLISHED, "s3", address=address, authorization="Bearer x") == chosen


def limit_aws(regions: tuple[str, ...]) -> Provider:
    """Limit AWS as an operator would."""
    return load_catalog(overrides={"aws": ProviderOverrides(regions=frozenset(regions))}).provider("aws")


@pytest.mark.parametrize(
    ("limit", "chosen", "said"),
    [
        ((), "us-east-2", ""),
        (("eu-west-1", "us-east-2"), "us-east-2", ""),
        (("eu-west-1",), "us-east-2", "only in eu-west-1, and the call is for us-east-2"),
        (("us-east-2",), "", "only in us-east-2, and the call is for eu-west-1"),  # the account's default region
        (("us-east-2",), "us-east-2", ""),
    ],
)
def test_an_operator_limits_regions(limit: tuple[str, ...], chosen: str, said: str) -> None:
    provider = limit_aws(limit)
    assert provider.credential is not None
    values = {"access_key_id": KEY_ID, "secret_access_key": SECRET, "session_token": ""}
    token = pack(provider.credential, {**values, "region": "eu-west-1,us-east-2"})
    choice = {"region": chosen} if chosen else {}
    if said:
        with pytest.raises(ChoiceRefused, match=said) as raised:
            choose(provider, token, choice)
        assert "providers.aws.regions" in str(raised.value)
    else:
        choose(provider, token, choice)


@pytest.mark.parametrize(
    ("name", "region", "said"),
    [
        ("aws", "eu-west-1", ""),
        ("aws", "mars-north-1", "unknown region 'mars-north-1'"),
        ("github", "eu-west-1", "people enter no region"),
        ("openai", "eu-west-1", "people enter no region"),
    ],
)
def test_only_regions_that_people_enter_can_be_limited(name: str, region: str, said: str) -> None:
    overrides = {name: ProviderOverrides(regions=frozenset({region}))}
    if said:
        with pytest.raises(ProviderFileRefused, match=said):
            load_catalog(overrides=overrides).provider(name)
    else:
        assert load_catalog(overrides=overrides).provider(name).registration.regions == {region}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def limited_room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[AwsRoom]:
    """The same, with one region allowed by the operator."""
    data = tmp_path_factory.mktemp("limited")
    async with aws_room(data, "{name}/{region}", regions=["eu-west-1"]) as opened:
        yield opened


@pytest.mark.parametrize("regions", ["eu-west-1", "eu-west-1, us-east-2"])
async def test_people_enter_only_the_regions_that_the_operator_allows(limited_room: AwsRoom, regions: str) -> None:
    keys, is_taken = limited_room.keys, regions == "eu-west-1"
    user = await keys.user()
    person = await keys.signed_in(user)
    values = {"access_key_id": KEY_ID, "secret_access_key": SECRET, "region": regions}
    answer = await keys.enter(person, await keys.form(person, "aws"), **values)
    assert ("/connect/done/" in str(answer.url)) is is_taken
    assert ("only in eu-west-1. Enter one or more of these" in answer.text) is not is_taken
    assert len(await accounts_of(keys, user)) == is_taken
    if is_taken:
        [connection] = await accounts_of(keys, user)
        handle = await keys.allow_agent(user, connection, READ)
        assert (await signed_call(handle, "eu-west-1")).status_code == 200
        refused = await signed_call(handle, "us-east-2")
        assert refused.headers["token-vault-refusal"] == "unknown_target"


@pytest.mark.parametrize(
    ("regions", "is_limited", "looked_at"),
    [
        ("us-east-2,eu-west-1", True, "eu-west-1"),
        ("us-east-2", True, ""),
        ("us-east-2", False, "us-east-2"),
        ("us-east-2,eu-west-1", False, "us-east-2"),
    ],
)
async def test_an_account_from_before_the_limit_is_looked_up_in_an_allowed_region_only(
    room: AwsRoom, limited_room: AwsRoom, regions: str, looked_at: str, *, is_limited: bool
) -> None:
    asked = limited_room if is_limited else room
    upstream, sent = asked.keys.deployment.vault.upstreams["aws"], len(asked.server.arrivals)
    token = json.dumps({"access_key_id": KEY_ID, "secret_access_key": SECRET, "session_token": "", "region": regions})
    answer = await upstream.probe(refresh_token=None, access_token=token, is_fresh=True, is_revoked=True)
    assert answer.outcome is (ProbeOutcome.ALIVE if looked_at else ProbeOutcome.SILENT)
    assert len(asked.server.arrivals) - sent == bool(looked_at)
    if looked_at:
        assert region_sent(asked) == (looked_at, looked_at)


@pytest.mark.parametrize(
    ("regions", "is_taken"),
    [
        ("eu-west-1,us-east-2", True),
        ("eu-west-1", True),
        ("eu-west-1, mars-north-1", False),
        ("eu-west-1, us-east-2/../..", False),
        (",", False),
    ],
)
async def test_each_region_is_one_of_aws_s(room: AwsRoom, regions: str, *, is_taken: bool) -> None:
    user = await room.keys.user()
    person = await room.keys.signed_in(user)
    form = await room.keys.form(person, "aws")
    assert 'placeholder="eu-central-1, us-east-1"' in form.text
    values = {"access_key_id": KEY_ID, "secret_access_key": SECRET, "region": regions}
    answer = await room.keys.enter(person, form, **values)
    assert ("/connect/done/" in str(answer.url)) is is_taken
    assert len(await accounts_of(room.keys, user)) == is_taken


async def test_a_key_that_another_region_does_not_know_stays_connected(room: AwsRoom) -> None:
    user = await room.keys.user()
    handle = await room.keys.allow_agent(user, await room.connect_account(user, region="eu-west-1, us-east-2"), READ)
    unknown = json_reply({"__type": "x#UnrecognizedClientException", "message": "invalid"}, status=400)
    try:
        room.aws.says = unknown
        assert (await signed_call(handle, "us-east-2")).status_code == 400
        assert [one.state.value for one in await accounts_of(room.keys, user)] == ["active"]
        answer = await signed_call(handle, "eu-west-1")
        assert answer.headers["token-vault-refusal"] == "connection_required"
        assert [one.state.value for one in await accounts_of(room.keys, user)] == ["needs_reauth"]
    finally:
        room.aws.says = None


async def test_a_tool_takes_a_region_of_the_account(room: AwsRoom) -> None:
    provider, spec = room.keys.deployment.catalog.provider("aws"), TOOLS["aws_dynamodb_tables"]
    values = {"access_key_id": KEY_ID, "secret_access_key": SECRET, "session_token": ""}
    token = json.dumps({**values, "region": "eu-west-1,us-east-2"})

    async def silent(done: int, total: int | None, message: str) -> None:
        """Ignore progress."""

    async def call(**arguments: str) -> None:
        api = UpstreamAPI(provider, room.keys.deployment.http, token=token, scopes=spec.scopes, now=1)
        await spec.call(api, spec.input.model_validate(arguments), silent)

    room.aws.says = None
    for arguments, region in (({}, "eu-west-1"), ({"region": "us-east-2"}, "us-east-2")):
        with pytest.raises(UpstreamRefused):  # this service has no tables
            await call(**arguments)
        assert region_sent(room) == (region, region)
    with pytest.raises(RuleRefused, match="eu-west-1, us-east-2"):
        await call(region="us-west-2")
    try:
        room.aws.says = json_reply({"__type": "x#UnrecognizedClientException", "message": "invalid"}, status=400)
        with pytest.raises(UpstreamRefused, match="the key there"):
            await call(region="us-east-2")
        with pytest.raises(TokenRejected):
            await call(region="eu-west-1")
    finally:
        room.aws.says = None
