"""Tools that list AWS resources: signed with the account's key; XML is read as botocore's own models read it."""

from __future__ import annotations

import importlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from providers.api.api import RuleRefused, TokenRejected, UpstreamAPI, UpstreamUnavailable
from providers.api.rules import Call, allows
from providers.api.xml_answers import parse_xml
from providers.definitions.catalog import ProviderOverrides, load_catalog
from providers.definitions.model import Provider
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from tests.credentials.test_aws import KEY_ID, REFUSED, SECRET, Aws
from tests.generating.shipped_tools import shipped_tools
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, json_reply, scripted_server

TOOLS = {name: spec for name, spec in shipped_tools().items() if spec.provider == "aws"}
S3, EC2 = "http://s3.amazonaws.com/doc/2006-03-01/", "http://ec2.amazonaws.com/doc/2016-11-15/"
BUCKETS = f"""<?xml version="1.0" encoding="UTF-8"?>
<ListAllMyBucketsResult xmlns="{S3}"><Owner><ID>1</ID></Owner><Buckets>
<Bucket><Name>box</Name><CreationDate>2026-01-01T00:00:00.000Z</CreationDate></Bucket>
</Buckets></ListAllMyBucketsResult>"""
OBJECTS = f"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="{S3}"><Name>box</Name><KeyCount>2</KeyCount><IsTruncated>false</IsTruncated>
<Contents><Key>a &amp; b.txt</Key><Size>11</Size><LastModified>2026-01-02T00:00:00.000Z</LastModified></Contents>
<Contents><Key>c.txt</Key><Size>0</Size><LastModified>2026-01-03T00:00:00.000Z</LastModified></Contents>
</ListBucketResult>"""
INSTANCES = f"""<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="{EC2}"><requestId>r</requestId><reservationSet><item><instancesSet>
<item><instanceId>i-1</instanceId><instanceState><name>running</name></instanceState><instanceType>t3.nano</instanceType>
<privateIpAddress>10.0.0.1</privateIpAddress></item>
<item><instanceId>i-2</instanceId><instanceState><name>stopped</name></instanceState><instanceType>t3.nano</instanceType>
</item></instancesSet></item></reservationSet></DescribeInstancesResponse>"""
SAID: Mapping[str, str] = {"/s3/": BUCKETS, "/s3/box": OBJECTS, "/ec2/": INSTANCES}


def answer(arrival: Arrival) -> Reply:
    """AWS's answer, if the signature is right."""
    checked = Aws().answer(arrival)
    if checked.status != 200 or arrival.path == "/sts/":
        return checked
    if arrival.path.startswith("/ses/"):
        return json_reply({"MessageId": "m-1"})
    return Reply(200, SAID[arrival.path].encode(), {"content-type": "text/xml;charset=UTF-8"})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place() -> AsyncGenerator[tuple[ScriptedServer, Provider, Outbound]]:
    async with scripted_server(answer) as server, Outbound(AddressPolicy(allow_loopback=True)) as outbound:
        apis = {name: f"{server.url}/{name}" for name in load_catalog().provider("aws").apis}
        provider = load_catalog(overrides={"aws": ProviderOverrides(apis=apis)}).provider("aws")
        yield server, provider, outbound


async def call(place: tuple[ScriptedServer, Provider, Outbound], name: str, **arguments: object) -> Any:
    _, provider, outbound = place
    spec = TOOLS[name]
    values = {"access_key_id": KEY_ID, "secret_access_key": SECRET, "session_token": "", "region": "eu-west-1"}
    secret = str(arguments.pop("secret", SECRET))
    token = json.dumps({**values, "secret_access_key": secret})
    api = UpstreamAPI(provider, outbound, token=token, scopes=spec.scopes, now=1)

    async def silent(done: int, total: int | None, message: str) -> None:
        """Ignore progress."""

    return (await spec.call(api, spec.input.model_validate(arguments), silent)).model_dump()


def service_model(service: str) -> Any:
    """Botocore's model of a service."""
    loaders: Any = importlib.import_module("botocore.loaders")
    models: Any = importlib.import_module("botocore.model")
    return models.ServiceModel(loaders.Loader().load_service_model(service, "service-2"), service)


def botocore_s(service: str, operation: str, text: str) -> Any:
    """The answer, parsed with botocore's model of the service."""
    parsers: Any = importlib.import_module("botocore.parsers")
    described = service_model(service)
    parser = parsers.create_parser(described.metadata["protocol"])
    response: dict[str, object] = {"status_code": 200, "headers": {}, "body": text.encode()}
    return parser.parse(response, described.operation_model(operation).output_shape)


async def test_what_s3_and_ec2_list_is_what_botocore_reads(place: tuple[ScriptedServer, Provider, Outbound]) -> None:
    buckets = (await call(place, "aws_s3_buckets"))["items"]
    assert [one["name"] for one in buckets] == [
        one["Name"] for one in botocore_s("s3", "ListBuckets", BUCKETS)["Buckets"]
    ]
    objects = (await call(place, "aws_s3_objects", bucket="box", prefix="a&b=c/", limit=2))["items"]
    listed = botocore_s("s3", "ListObjectsV2", OBJECTS)["Contents"]
    assert [(one["key"], one["size"]) for one in objects] == [(one["Key"], one["Size"]) for one in listed]
    assert place[0].arrivals[-1].query == {"list-type": "2", "prefix": "a&b=c/", "max-keys": "2"}
    [group] = (await call(place, "aws_ec2_instances"))["items"]
    found = botocore_s("ec2", "DescribeInstances", INSTANCES)["Reservations"][0]["Instances"]
    assert group["ids"] == [one["InstanceId"] for one in found]
    assert group["states"] == [one["State"]["Name"] for one in found]


async def test_identity_and_email_are_json(place: tuple[ScriptedServer, Provider, Outbound]) -> None:
    assert (await call(place, "aws_identity"))["arn"] == f"arn:aws:iam::123456789012:user/{KEY_ID}"
    sent = await call(
        place, "aws_email_send", sender="a@b.example", to=["c@d.example"], subject="Hello", text="Some text"
    )
    assert sent["id"] == "m-1"
    body = {"Subject": {"Data": "Hello"}, "Body": {"Text": {"Data": "Some text"}}}
    assert place[0].arrivals[-1].json == {
        "FromEmailAddress": "a@b.example",
        "Destination": {"ToAddresses": ["c@d.example"]},
        "Content": {"Simple": body},
    }


async def test_a_key_that_aws_does_not_know_is_refused_in_xml(
    place: tuple[ScriptedServer, Provider, Outbound],
) -> None:
    assert (await call(place, "aws_s3_buckets"))["items"]
    with pytest.raises(TokenRejected):
        await call(place, "aws_s3_buckets", secret="x" * 40)


@pytest.mark.parametrize(
    ("action", "is_allowed"),
    [
        ("DescribeVolumes", True),
        ("DescribeInstanceAttribute", False),
        ("DescribeLaunchTemplateVersions", False),
        ("GetPasswordData", False),
        ("TerminateInstances", False),
        ("DescribeSpotFleetRequests", False),
        ("DescribeWhatIsNew", False),
    ],
)
async def test_rules_of_ec2_look_at_the_action(
    place: tuple[ScriptedServer, Provider, Outbound], action: str, *, is_allowed: bool
) -> None:
    _, provider, outbound = place
    token = json.dumps({"access_key_id": KEY_ID, "secret_access_key": SECRET, "region": "eu-west-1"})
    api = UpstreamAPI(provider, outbound, token=token, scopes=frozenset({"ec2:read"}), now=1)
    if is_allowed:
        assert await api.get("ec2", "/", params={"Action": action, "Version": "2016-11-15"})
        return
    with pytest.raises(RuleRefused):
        await api.get("ec2", "/", params={"Action": action, "Version": "2016-11-15"})


def test_no_answer_that_ec2_read_gets_holds_what_botocore_calls_sensitive() -> None:
    provider, model = load_catalog().provider("aws"), service_model("ec2")
    secret = [one for one in model.operation_names if hides(model.operation_model(one).output_shape)]
    assert {"DescribeSpotFleetRequests", "DescribeVpnConnections"} <= set(secret)

    def is_allowed(action: str) -> bool:
        call = Call("ec2", "POST", "/", {"Action": action, "Version": "2016-11-15"})
        return allows(provider, call, frozenset({"ec2:read"}))

    assert [one for one in secret if is_allowed(one)] == []
    assert sum(map(is_allowed, model.operation_names)) == 25


def hides(shape: Any, above: frozenset[str] = frozenset()) -> bool:
    """Whether a botocore shape, or one inside it, is marked as sensitive."""
    if shape is None or shape.name in above:
        return False
    inner = {"structure": lambda: shape.members.values(), "list": lambda: (shape.member,)}
    parts: Any = inner.get(shape.type_name, tuple)()
    return bool(shape.metadata.get("sensitive")) or any(hides(one, above | {shape.name}) for one in parts)


@pytest.mark.parametrize(
    ("body", "is_read"),
    [
        (b"<a><b>1</b></a>", True),
        (b"<a><b><![CDATA[1 < 2]]></b></a>", True),
        (b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', False),
        (b"<a><b>1</a>", False),
        ('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'.encode("utf-16"), False),
        ('<?xml version="1.0" encoding="utf-16"?><a>1</a>'.encode("utf-16"), False),
        (b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?><a>1</a>', True),
        (b"<a>" * 50 + b"</a>" * 50, False),
        (REFUSED, True),
    ],
)
def test_only_plain_xml_is_read(body: bytes, *, is_read: bool) -> None:
    assert (parse_xml(body) is not None) is is_read


async def test_a_secret_that_markup_splits_is_masked(place: tuple[ScriptedServer, Provider, Outbound]) -> None:
    server = place[0]
    for word, shown in ((SECRET, "*" * len(SECRET)), ("harmless", "harmless")):
        hidden = f"{word[:4]}<![CDATA[{word[4:]}]]>"
        server.answer = lambda _, hidden=hidden: Reply(
            200, BUCKETS.replace("<Name>box", f"<Name>{hidden}").encode(), {"content-type": "text/xml"}
        )
        try:
            assert (await call(place, "aws_s3_buckets"))["items"][0]["name"] == shown
        finally:
            server.answer = answer


async def test_an_answer_that_is_no_xml_is_no_success(place: tuple[ScriptedServer, Provider, Outbound]) -> None:
    server = place[0]
    try:
        server.answer = lambda _: Reply(200, b"<!DOCTYPE a><a/>", {"content-type": "application/xml"})
        with pytest.raises(UpstreamUnavailable):
            await call(place, "aws_s3_buckets")
    finally:
        server.answer = answer
    assert (await call(place, "aws_s3_buckets"))["items"]
