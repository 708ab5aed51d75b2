"""AWS (moto) through the proxy: boto3 signs with a handle, the vault signs with the account's key, moto verifies.

Run by `make keyservices`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from providers.api.api import UpstreamAPI, UpstreamRefused
from providers.credentials.placement import authorize_request
from providers.outbound.addresses import AddressPolicy
from providers.outbound.messages import OutboundRequest
from tests.generating.shipped_tools import shipped_tools
from tests.keyservices.keys_at_services import packages, program, run_service
from tests.support.processes import free_port
from tests.support.rooms.key_room import KeyRoom, running_key_room

__all__ = ["packages"]

pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's packages
APIS = ("s3", "sts", "ses", "ec2", "cloudwatch", "logs", "dynamodb", "kms")
LOOPBACK = AddressPolicy(allow_loopback=True)
SCOPES = frozenset({"account:read", "s3:write"})
READS = frozenset({"metrics:read", "logs:read", "tables:read", "keys:read", "ec2:read"})


def client(service: str, address: str, key: str, secret: str, region: str = "us-east-1") -> Any:
    boto3: Any = importlib.import_module("boto3")
    configs: Any = importlib.import_module("botocore.config")
    config = configs.Config(
        s3={"addressing_style": "path"}, request_checksum_calculation="when_required", retries={"max_attempts": 1}
    )
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=address,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=config,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[tuple[KeyRoom, str, str]]:
    """The vault, and a key of a moto user; from then on, moto verifies every signature."""
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "1000")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with run_service(program("moto_server"), "-H", "0.0.0.0", "-p", address.rpartition(":")[2], until=address):
            iam, s3 = client("iam", address, "test", "test"), client("s3", address, "test", "test")
            await asyncio.to_thread(s3.create_bucket, Bucket="box")
            await asyncio.to_thread(iam.create_user, UserName="agent")
            rights = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
            await asyncio.to_thread(
                lambda: iam.put_user_policy(UserName="agent", PolicyName="all", PolicyDocument=rights)
            )
            made = (await asyncio.to_thread(iam.create_access_key, UserName="agent"))["AccessKey"]
            async with httpx2.AsyncClient(
                trust_env=False, timeout=30
            ) as http:  # verify from now on, however many calls came before
                (await http.post(f"{address}/moto-api/reset-auth", content="0")).raise_for_status()
            # one host each, so that an address stands for one service
            apis = {name: address.replace("127.0.0.1", f"127.0.0.{at}") for at, name in enumerate(APIS, start=2)}
            more = {"aws": {"apis": apis}}
            async with running_key_room(tmp_path_factory.mktemp("aws"), more=more) as opened:
                yield opened, made["AccessKeyId"], made["SecretAccessKey"]


async def test_boto3_lists_and_puts_objects_with_a_handle(room: tuple[KeyRoom, str, str], tmp_path: Path) -> None:
    keys, access_key, secret = room
    user = await keys.user()
    person = await keys.signed_in(user)
    values = {"access_key_id": access_key, "secret_access_key": secret, "region": "us-east-1", "label": "Box"}
    refused = await keys.enter(person, await keys.form(person, "aws"), **{**values, "secret_access_key": "x" * 40})
    assert "accept this" in refused.text
    connection = await keys.connect_account(user, person, "aws", **values)
    handle = await keys.allow_agent(user, connection, SCOPES)
    s3 = client("s3", handle.base("s3"), handle.value, "dummy")
    large = tmp_path / "large"
    large.write_bytes(os.urandom(300_000))

    def use() -> tuple[list[str], bytes]:
        s3.put_object(Bucket="box", Key="a folder/é+.txt", Body=b"hello")
        s3.upload_file(str(large), "box", "large")
        s3.copy_object(Bucket="box", Key="copy", CopySource="box/large")
        found = s3.list_objects_v2(Bucket="box")["Contents"]
        s3.delete_object(Bucket="box", Key="copy")
        return [one["Key"] for one in found], s3.get_object(Bucket="box", Key="a folder/é+.txt")["Body"].read()

    names, content = await asyncio.to_thread(use)
    assert (names, content) == (["a folder/é+.txt", "copy", "large"], b"hello")
    sts = client("sts", handle.base("sts"), handle.value, "dummy")
    assert (await asyncio.to_thread(sts.get_caller_identity))["Arn"].endswith("user/agent")
    with pytest.raises(Exception, match=r"403|Forbidden"):
        await asyncio.to_thread(sts.get_session_token)
    with pytest.raises(Exception, match=r"403|Forbidden"):
        await asyncio.to_thread(lambda: s3.delete_bucket(Bucket="box"))


async def test_tools_list_what_moto_has(room: tuple[KeyRoom, str, str]) -> None:
    keys, access_key, secret = room
    values = {"access_key_id": access_key, "secret_access_key": secret, "session_token": "", "region": "us-east-1"}
    provider, tools = keys.deployment.catalog.provider("aws"), shipped_tools()
    put = OutboundRequest("PUT", f"{provider.apis['s3']}/box/listed.txt", body=b"hello", policy=LOOPBACK)
    assert (await keys.deployment.http.send(authorize_request(provider, put, json.dumps(values)))).status == 200

    async def call(name: str, **arguments: object) -> Any:
        spec = tools[name]
        api = UpstreamAPI(provider, keys.deployment.http, token=json.dumps(values), scopes=spec.scopes, now=1)
        return (await spec.call(api, spec.input.model_validate(arguments), silent)).model_dump()

    assert [one["name"] for one in (await call("aws_s3_buckets"))["items"]] == ["box"]
    listed = (await call("aws_s3_objects", bucket="box", prefix="listed"))["items"]
    assert [(one["key"], one["size"]) for one in listed] == [("listed.txt", 5)]
    assert (await call("aws_s3_objects", bucket="box", prefix="nothing"))["items"] == []
    assert (await call("aws_identity"))["arn"].endswith("user/agent")
    with pytest.raises(UpstreamRefused):
        await call("aws_s3_objects", bucket="no-such-bucket")


async def test_boto3_speaks_json_to_services_whose_operation_is_in_a_header(
    room: tuple[KeyRoom, str, str],
) -> None:
    keys, access_key, secret = room
    user = await keys.user()
    person = await keys.signed_in(user)
    values = {"access_key_id": access_key, "secret_access_key": secret, "region": "us-east-1", "label": "Tables"}
    connection = await keys.connect_account(user, person, "aws", **values)
    writer = await keys.allow_agent(
        user, connection, READS | {"tables:manage", "metrics:write", "logs:write", "keys:use", "ec2:operate"}
    )
    reader = await keys.allow_agent(user, connection, READS)

    def clients(handle: Any) -> dict[str, Any]:
        return {
            name: client(name, handle.base(name), handle.value, "dummy")
            for name in ("dynamodb", "cloudwatch", "logs", "kms", "ec2")
        }

    writing, reading = clients(writer), clients(reader)

    def fill() -> None:
        table = {"AttributeName": "id", "AttributeType": "S"}
        key = {"AttributeName": "id", "KeyType": "HASH"}
        writing["dynamodb"].create_table(
            TableName="things", AttributeDefinitions=[table], KeySchema=[key], BillingMode="PAY_PER_REQUEST"
        )
        writing["dynamodb"].put_item(TableName="things", Item={"id": {"S": "one"}})
        writing["cloudwatch"].put_metric_data(Namespace="box", MetricData=[{"MetricName": "size", "Value": 3.0}])
        writing["logs"].create_log_group(logGroupName="box")
        writing["logs"].create_log_stream(logGroupName="box", logStreamName="1")
        event = {"timestamp": int(time.time() * 1000), "message": "hello"}
        writing["logs"].put_log_events(logGroupName="box", logStreamName="1", logEvents=[event])

    await asyncio.to_thread(fill)

    def read() -> tuple[Any, ...]:
        return (
            reading["dynamodb"].scan(TableName="things")["Items"],
            [one["MetricName"] for one in reading["cloudwatch"].list_metrics(Namespace="box")["Metrics"]],
            [one["message"] for one in reading["logs"].filter_log_events(logGroupName="box")["events"]],
            reading["kms"].list_keys()["Keys"],
            reading["ec2"].describe_instances()["Reservations"],
        )

    items, metrics, events, kms_keys, groups = await asyncio.to_thread(read)
    assert (items, metrics, events, kms_keys, groups) == ([{"id": {"S": "one"}}], ["size"], ["hello"], [], [])
    missing = reading["dynamodb"].exceptions.ResourceNotFoundException
    with pytest.raises(missing):
        await asyncio.to_thread(lambda: reading["dynamodb"].describe_table(TableName="nothing"))
    for write in (
        lambda: reading["dynamodb"].put_item(TableName="things", Item={"id": {"S": "two"}}),
        lambda: reading["cloudwatch"].put_metric_data(Namespace="box", MetricData=[{"MetricName": "n", "Value": 1}]),
        lambda: reading["logs"].create_log_group(logGroupName="other"),
        lambda: reading["kms"].generate_random(NumberOfBytes=8),
        lambda: writing["kms"].create_key(),
        lambda: writing["cloudwatch"].delete_alarms(AlarmNames=["a"]),
        lambda: writing["logs"].delete_log_group(logGroupName="box"),
    ):
        with pytest.raises(Exception, match=r"403|scope_missing|call_not_allowed"):
            await asyncio.to_thread(write)
    provider, tools = keys.deployment.catalog.provider("aws"), shipped_tools()
    entered = json.dumps({**values, "session_token": ""})

    async def call(name: str, **arguments: object) -> Any:
        spec = tools[name]
        api = UpstreamAPI(provider, keys.deployment.http, token=entered, scopes=spec.scopes, now=1)
        return (await spec.call(api, spec.input.model_validate(arguments), silent)).model_dump()

    assert [one["name"] for one in (await call("aws_metrics", namespace="box"))["items"]] == ["size"]
    hour = timedelta(hours=1)
    span = {"start": datetime.now(UTC) - hour, "end": datetime.now(UTC) + hour}
    values_of = await call("aws_metric_values", namespace="box", metric="size", statistic="Sum", **span)
    assert [one["sum"] for one in values_of["items"]] == [3.0]
    assert (await call("aws_alarms"))["items"] == []
    assert [one["name"] for one in (await call("aws_log_groups"))["items"]] == ["box"]
    assert [one["message"] for one in (await call("aws_log_events", group="box"))["items"]] == ["hello"]
    assert (await call("aws_dynamodb_tables"))["tables"] == ["things"]
    assert (await call("aws_dynamodb_table", table="things"))["name"] == "things"
    assert json.loads((await call("aws_dynamodb_scan", table="things"))["items"]) == [{"id": {"S": "one"}}]
    with pytest.raises(UpstreamRefused) as refused:
        await call("aws_dynamodb_table", table="nothing")
    assert refused.value.code == "ResourceNotFoundException"


async def test_boto3_in_two_regions_with_one_key(room: tuple[KeyRoom, str, str]) -> None:
    keys, access_key, secret = room
    user = await keys.user()
    person = await keys.signed_in(user)
    values = {
        "access_key_id": access_key,
        "secret_access_key": secret,
        "region": "eu-west-1, us-east-2",
        "label": "Two",
    }
    connection = await keys.connect_account(user, person, "aws", **values)
    handle = await keys.allow_agent(user, connection, frozenset({"logs:read", "logs:write"}))

    def logs(region: str) -> Any:
        return client("logs", handle.base("logs"), handle.value, "dummy", region)

    for region in ("eu-west-1", "us-east-2"):
        await asyncio.to_thread(partial(logs(region).create_log_group, logGroupName=f"of-{region}"))
    for region in ("eu-west-1", "us-east-2"):
        [found] = (await asyncio.to_thread(logs(region).describe_log_groups))["logGroups"]
        assert (found["logGroupName"], region in found["arn"]) == (f"of-{region}", True)
    with pytest.raises(Exception, match=r"404|unknown_target"):
        await asyncio.to_thread(logs("us-west-2").describe_log_groups)


async def test_instances_come_in_pages(room: tuple[KeyRoom, str, str]) -> None:
    keys, access_key, secret = room
    values = {"access_key_id": access_key, "secret_access_key": secret, "session_token": "", "region": "us-east-1"}
    ec2 = client("ec2", keys.deployment.catalog.provider("aws").apis["ec2"], access_key, secret)
    image = (await asyncio.to_thread(ec2.describe_images))["Images"][0]["ImageId"]
    for _ in range(6):
        await asyncio.to_thread(lambda: ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1))
    provider, spec = keys.deployment.catalog.provider("aws"), shipped_tools()["aws_ec2_instances"]
    pages: list[list[str]] = []
    cursor: str | None = None
    while not pages or cursor is not None:
        api = UpstreamAPI(provider, keys.deployment.http, token=json.dumps(values), scopes=spec.scopes, now=1)
        arguments = spec.input.model_validate({"limit": 5, "cursor": cursor})
        answer: Any = await spec.call(api, arguments, silent)
        pages.append([one for group in answer.items for one in group.ids])
        cursor = answer.next_cursor
    assert [len(page) for page in pages] == [5, 1]
    assert len({one for page in pages for one in page}) == 6


async def silent(done: int, total: int | None, message: str) -> None:
    """Ignore progress."""
