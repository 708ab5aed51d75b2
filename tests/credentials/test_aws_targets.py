"""AWS's JSON protocols: the X-Amz-Target header names the operation, so rules check it and forward it unchanged."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from providers.api.rules import Call, allows
from providers.definitions.catalog import load_catalog
from tests.credentials.test_aws import SECRET, AwsRoom, aws_room
from tests.credentials.test_aws_tools import hides, service_model
from tests.support.doubles.scripted_server import json_reply
from tests.support.rooms.portal_room import accounts_of

JSON = "application/x-amz-json-1.0"
DYNAMODB, CLOUDWATCH, LOGS = "DynamoDB_20120810", "GraniteServiceVersion20100801", "Logs_20140328"
TABLES, METRICS, LOGS_READ = frozenset({"tables:read"}), frozenset({"metrics:read"}), frozenset({"logs:read"})


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[AwsRoom]:
    async with aws_room(tmp_path_factory.mktemp("targets")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("operation", "scopes", "status", "refusal"),
    [
        ("GetItem", {"tables:read"}, 200, None),
        ("PutItem", {"tables:write"}, 200, None),
        ("GetItem", {"tables:write"}, 200, None),
        ("PutItem", {"tables:read"}, 403, "scope_missing"),
        ("ExecuteStatement", {"tables:read"}, 403, "scope_missing"),
        ("GetItem", {"logs:read"}, 403, "scope_missing"),
        ("DeleteTable", {"tables:write"}, 403, "scope_missing"),
        ("DeleteTable", {"tables:manage"}, 200, None),
        ("PutResourcePolicy", {"tables:manage"}, 403, "call_not_allowed"),
        ("GetItem, DynamoDB_20120810.PutItem", {"tables:read"}, 403, "call_not_allowed"),
        ("getitem", {"tables:read"}, 403, "call_not_allowed"),
    ],
)
async def test_the_target_tells_a_read_from_a_write(
    room: AwsRoom, operation: str, scopes: set[str], status: int, refusal: str | None
) -> None:
    user = await room.keys.user()
    handle = await room.keys.allow_agent(user, await room.connect_account(user), frozenset(scopes))
    target, sent = f"{DYNAMODB}.{operation}", len(room.server.arrivals)
    headers = {"x-amz-target": target, "content-type": JSON}
    answer = await handle.call("POST", "", api="dynamodb", headers=headers, content=b'{"TableName": "t"}')
    assert (answer.status_code, answer.headers.get("token-vault-refusal")) == (status, refusal), answer.text
    if refusal is None:
        assert answer.json() == {"operation": target, "type": JSON}
    else:
        assert len(room.server.arrivals) == sent


@pytest.mark.parametrize(
    ("api", "headers", "body", "status"),
    [
        ("dynamodb", {"x-amz-target": f"{DYNAMODB}.ListTables", "content-type": JSON}, b"{}", 200),
        ("dynamodb", {"content-type": JSON}, b"{}", 403),
        ("cloudwatch", {"x-amz-target": f"{CLOUDWATCH}.ListMetrics", "content-type": JSON}, b"{}", 200),
        ("cloudwatch", {"content-type": "application/x-www-form-urlencoded"}, b"Action=ListMetrics", 200),
        (
            "cloudwatch",
            {"x-amz-target": f"{CLOUDWATCH}.PutMetricData", "content-type": "application/x-www-form-urlencoded"},
            b"Action=ListMetrics",
            403,
        ),
        (
            "cloudwatch",
            {"x-amz-target": f"{CLOUDWATCH}.ListMetrics", "content-type": "application/x-www-form-urlencoded"},
            b"Action=ListMetrics",
            403,
        ),
        ("sts", {"content-type": "application/x-www-form-urlencoded"}, b"Action=GetCallerIdentity", 200),
        (
            "sts",
            {"x-amz-target": "Sts.GetSessionToken", "content-type": "application/x-www-form-urlencoded"},
            b"Action=GetCallerIdentity",
            403,
        ),
    ],
)
async def test_a_service_cannot_find_another_operation_than_the_vault(
    room: AwsRoom, api: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    user = await room.keys.user()
    scopes = TABLES | METRICS | {"account:read"}
    handle = await room.keys.allow_agent(user, await room.connect_account(user), scopes)
    answer = await handle.call("POST", "", api=api, headers=headers, content=body)
    assert answer.status_code == status, answer.text


async def test_a_refusal_names_the_header_that_is_missing(room: AwsRoom) -> None:
    user = await room.keys.user()
    handle = await room.keys.allow_agent(
        user, await room.connect_account(user), frozenset({"keys:read", "account:read"})
    )
    answer = await handle.call("POST", "", api="kms", headers={"content-type": JSON}, content=b"{}")
    assert "with its x-amz-target." in answer.text, answer.text
    answer = await handle.call("POST", "", api="sts", headers={"content-type": JSON}, content=b"{}")
    assert "with its Action." in answer.text, "the twin: no rule there has a target"


@pytest.mark.parametrize(("body", "status"), [(b"{}", 200), (b'{"unmask": false}', 200), (b'{"unmask": true}', 403)])
async def test_what_a_log_group_masks_stays_masked(room: AwsRoom, body: bytes, status: int) -> None:
    user = await room.keys.user()
    handle = await room.keys.allow_agent(user, await room.connect_account(user), LOGS_READ)
    headers = {"x-amz-target": f"{LOGS}.FilterLogEvents", "content-type": "application/x-amz-json-1.1"}
    assert (await handle.call("POST", "", api="logs", headers=headers, content=body)).status_code == status


@pytest.mark.parametrize("operation", ["StartQuery", "StopQuery", "GetQueryResults", "DescribeQueries"])
async def test_queries_which_unmask_and_are_of_others_too_need_a_scope_of_their_own(
    room: AwsRoom, operation: str
) -> None:
    body = b'{"logGroupName": "g", "startTime": 1, "endTime": 2, "queryString": "fields unmask(@message)"}'
    headers = {"x-amz-target": f"{LOGS}.{operation}", "content-type": "application/x-amz-json-1.1"}
    for scopes, status in ((LOGS_READ, 403), (frozenset({"logs:query"}), 200)):
        user = await room.keys.user()
        handle = await room.keys.allow_agent(user, await room.connect_account(user), scopes)
        assert (await handle.call("POST", "", api="logs", headers=headers, content=body)).status_code == status
    assert "logs:query" not in load_catalog().provider("aws").reading_scopes


@pytest.mark.parametrize(
    ("operation", "member", "status"),
    [
        ("CreateTable", {"BillingMode": "PAY_PER_REQUEST"}, 200),
        ("CreateTable", {"ResourcePolicy": "{}"}, 403),
        ("CreateTable", {"GlobalTableSourceArn": "arn:aws:dynamodb:us-east-1:1:table/t"}, 403),
        ("UpdateTable", {"TableClass": "STANDARD"}, 200),
        ("UpdateTable", {"ReplicaUpdates": [{"Create": {"RegionName": "us-east-1"}}]}, 403),
        ("UpdateTable", {"GlobalTableWitnessUpdates": [{"Create": {"RegionName": "us-east-1"}}]}, 403),
        ("UpdateTable", {"MultiRegionConsistency": "STRONG"}, 403),
    ],
)
async def test_a_table_is_neither_shared_nor_copied_to_other_regions(
    room: AwsRoom, operation: str, member: dict[str, object], status: int
) -> None:
    user = await room.keys.user()
    handle = await room.keys.allow_agent(user, await room.connect_account(user), frozenset({"tables:manage"}))
    headers = {"x-amz-target": f"{DYNAMODB}.{operation}", "content-type": JSON}
    body = json.dumps({"TableName": "t", **member}).encode()
    assert (await handle.call("POST", "", api="dynamodb", headers=headers, content=body)).status_code == status


async def test_a_body_of_some_size_is_read_and_signed(room: AwsRoom) -> None:
    user = await room.keys.user()
    handle = await room.keys.allow_agent(user, await room.connect_account(user), frozenset({"tables:write"}))
    body = b'{"TableName": "t", "Item": {"a": {"S": "' + b"x" * 300_000 + b'"}}}'
    for kind, status in ((JSON, 200), ("application/octet-stream", 415)):
        headers = {"x-amz-target": f"{DYNAMODB}.PutItem", "content-type": kind}
        assert (await handle.call("POST", "", api="dynamodb", headers=headers, content=body)).status_code == status


async def test_a_body_that_cannot_be_signed_is_refused_with_what_can_be(room: AwsRoom) -> None:
    user = await room.keys.user()
    handle = await room.keys.allow_agent(user, await room.connect_account(user), frozenset({"email:send"}))
    for kind, size, status in (
        ("application/json", 300_000, 200),
        ("application/octet-stream", 65_536, 200),
        ("application/octet-stream", 65_537, 413),
    ):
        content = b'{"Data": "' + b"x" * (size - 12) + b'"}'
        sent = {"content-type": kind}
        answer = await handle.call("POST", "/v2/email/outbound-emails", api="ses", headers=sent, content=content)
        assert answer.status_code == status, answer.text
    assert answer.headers["token-vault-refusal"] == "body_too_large"
    assert f"JSON or a form of at most {room.keys.deployment.settings.proxy.read_limit} bytes" in answer.text


@pytest.mark.parametrize(
    ("code", "message", "ended"),
    [
        ("com.amazon.coral.service#UnrecognizedClientException", "The security token is invalid.", True),
        ("InvalidSignatureException", "Signature expired: 20261127T000000Z is now earlier than ...", False),
        ("com.amazonaws.dynamodb.v20120810#ResourceNotFoundException", "no such table", False),
    ],
)
async def test_a_key_that_json_calls_dead_ends_the_connection(
    room: AwsRoom, code: str, message: str, *, ended: bool
) -> None:
    user = await room.keys.user()
    connection = await room.connect_account(user)
    handle = await room.keys.allow_agent(user, connection, TABLES)
    headers = {"x-amz-target": f"{DYNAMODB}.ListTables", "content-type": JSON}
    room.aws.says = json_reply({"__type": code, "message": message}, status=400)
    try:
        answer = await handle.call("POST", "", api="dynamodb", headers=headers, content=b"{}")
    finally:
        room.aws.says = None
    assert answer.headers.get("token-vault-refusal") == ("connection_required" if ended else None)
    assert SECRET not in answer.text
    [held] = await accounts_of(room.keys, user)
    assert held.state.value == ("needs_reauth" if ended else "active")


def test_no_answer_that_a_read_gets_holds_what_botocore_calls_sensitive() -> None:
    provider = load_catalog().provider("aws")
    services = {"cloudwatch": "metrics:read", "logs": "logs:read", "dynamodb": "tables:read", "kms": "keys:read"}
    found: dict[str, int] = {}
    hidden: list[str] = []
    for api, scope in services.items():
        model: Any = service_model(api)
        for name in model.operation_names:
            call = Call(api, "POST", "/", target=f"{model.metadata['targetPrefix']}.{name}")
            if allows(provider, call, frozenset({scope})):
                found[api] = found.get(api, 0) + 1
                hidden += [name] if hides(model.operation_model(name).output_shape) else []
    assert found == {"cloudwatch": 8, "logs": 8, "dynamodb": 12, "kms": 9}
    assert hidden == []
    assert hides(service_model("kms").operation_model("Decrypt").output_shape)


@pytest.mark.parametrize(
    ("path", "is_smithy"),
    [
        ("/service/GraniteServiceVersion20100801/operation/ListMetrics", True),
        ("/service/GraniteServiceVersion20100801", False),
    ],
)
async def test_a_call_in_cbor_is_refused_with_the_protocols_that_work(
    room: AwsRoom, path: str, *, is_smithy: bool
) -> None:
    user = await room.keys.user()
    handle, sent = (
        await room.keys.allow_agent(user, await room.connect_account(user), METRICS),
        len(room.server.arrivals),
    )
    headers = {"smithy-protocol": "rpc-v2-cbor", "content-type": "application/cbor"}
    answer = await handle.call("POST", path, api="cloudwatch", headers=headers, content=b"\xbf\xff")
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (403, "call_not_allowed")
    told = [part in answer.text for part in ("smithy-rpc-v2-cbor", "X-Amz-Target", "providers.aws.unruled_calls")]
    assert told == [is_smithy] * 3, answer.text
    assert len(room.server.arrivals) == sent
