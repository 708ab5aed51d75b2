"""AWS through the proxy, as moto has it: boto3 signs with a handle, the vault with the account's key, moto verifies.

Run by `make keyservices`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from providers.api.api import UpstreamAPI, UpstreamRefused
from providers.credentials.placing import authorize_request
from providers.outbound.addresses import AddressPolicy
from providers.outbound.messages import OutboundRequest
from tests.generating.shipped_tools import shipped
from tests.keyservices.keys_at_services import packages, program, running
from tests.support.processes import free_port
from tests.support.rooms.key_room import KeyRoom, running_key_room

__all__ = ["packages"]

pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's packages
HOSTS = {"s3": "127.0.0.1", "sts": "localhost", "ses": "[::1]"}  # so that each address means one service
LOOPBACK = AddressPolicy(allow_loopback=True)
SCOPES = frozenset({"account:read", "s3:write"})


def client(service: str, address: str, key: str, secret: str) -> Any:
    boto3: Any = importlib.import_module("boto3")
    configs: Any = importlib.import_module("botocore.config")
    config = configs.Config(
        s3={"addressing_style": "path"}, request_checksum_calculation="when_required", retries={"max_attempts": 1}
    )
    return boto3.client(
        service,
        region_name="us-east-1",
        endpoint_url=address,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=config,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[tuple[KeyRoom, str, str]]:
    """The vault, and the key of a user of moto's, which from then on verifies every signature."""
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INITIAL_NO_AUTH_ACTION_COUNT", "1000")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with running(program("moto_server"), "-H", "127.0.0.1", "-p", address.rpartition(":")[2], until=address):
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
            ) as http:  # from now on, however often asked before
                (await http.post(f"{address}/moto-api/reset-auth", content="0")).raise_for_status()
            apis = {name: address.replace("127.0.0.1", host) for name, host in HOSTS.items()}
            apis |= {name: f"http://127.0.0.1:{free_port()}" for name in ("ec2", "cloudwatch")}
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
    connection = await keys.entered(user, person, "aws", **values)
    handle = await keys.allowed(user, connection, SCOPES)
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
    provider, tools = keys.deployment.catalog.provider("aws"), shipped()
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


async def silent(done: int, total: int | None, message: str) -> None:
    """Progress that nobody watches."""
