"""An access key: calls through the proxy are signed with it, regardless of the client's own signature.

The service here computes each signature with botocore's own signer and refuses all others, as AWS does.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from providers.credentials.aws import UNSIGNED, AccessKey
from providers.outbound.messages import OutboundRequest
from tests.credentials.test_aws_signing import botocore_s
from tests.support.doubles.scripted_server import Arrival, Reply, ScriptedServer, json_reply, scripted_server
from tests.support.rooms.key_room import KeyRoom, running_key_room
from tests.support.rooms.portal_room import accounts_of
from vault.records import Connection, User
from vault.upstream import ProbeOutcome

APIS = ("s3", "sts", "ses", "ec2", "cloudwatch", "logs", "dynamodb", "kms")
KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
ACCOUNT, READ, WRITE = frozenset({"account:read"}), frozenset({"s3:read"}), frozenset({"s3:write"})
REFUSED = b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>"


@dataclass
class Aws:
    """The services, and the keys that they know: access key id -> secret and session token."""

    keys: dict[str, tuple[str, str]] = field(default_factory=lambda: {KEY_ID: (SECRET, "")})
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    says: Reply | None = None  # an answer to any key

    def answer(self, arrival: Arrival) -> Reply:
        if self.says is not None:
            return self.says
        sent = {name.lower(): value for name, value in arrival.headers.items()}
        access, _, region, service, _ = sent["authorization"].partition("Credential=")[2].split(",")[0].split("/")
        secret, token = self.keys.get(access, ("", ""))
        url = f"http://{sent['host']}{arrival.target}"
        key = AccessKey(access, secret, token, region, service)
        body = arrival.body if sent["x-amz-content-sha256"] != UNSIGNED else b""
        expected = botocore_s(OutboundRequest(arrival.method, url, headers=sent, body=body), key)
        if not secret or sent["authorization"] != expected or sent.get("x-amz-security-token", "") != token:
            return Reply(403, REFUSED, {"content-type": "application/xml"})
        if service == "sts":
            about = {"Account": "123456789012", "Arn": f"arn:aws:iam::123456789012:user/{access}", "UserId": access}
            return json_reply({"GetCallerIdentityResponse": {"GetCallerIdentityResult": about}})
        if "x-amz-target" in sent:
            return json_reply({"operation": sent["x-amz-target"], "type": sent["content-type"]})
        if arrival.method == "PUT":
            self.objects[arrival.path] = arrival.body
            return Reply(200, b"", {"etag": '"1"'})
        return Reply(200, self.objects.get(arrival.path, b"<ListBucketResult/>"), {"content-type": "application/xml"})


@dataclass
class AwsRoom:
    """The vault, and the services that it signs requests for."""

    keys: KeyRoom
    aws: Aws
    server: ScriptedServer

    async def connect_account(self, user: User, **changes: str) -> Connection:
        person = await self.keys.signed_in(user)
        values = {"access_key_id": KEY_ID, "secret_access_key": SECRET, "region": "eu-west-1", **changes}
        return await self.keys.connect_account(user, person, "aws", **values)


@asynccontextmanager
async def aws_room(
    folder: Path, place: str = "{name}", *, secrets: Mapping[str, object] | None = None, **settings: object
) -> AsyncGenerator[AwsRoom]:
    """Run the vault with these `secrets` settings and provider settings; `place` is each service's path at AWS."""
    aws = Aws()
    async with scripted_server(aws.answer) as server:
        apis = {name: f"{server.url}/{place.replace('{name}', name)}" for name in APIS}
        more = {"aws": {"apis": apis, **settings}}
        async with running_key_room(folder, more=more, overrides={"secrets": secrets or {}}) as opened:
            yield AwsRoom(opened, aws, server)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def room(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[AwsRoom]:
    async with aws_room(tmp_path_factory.mktemp("aws")) as opened:
        yield opened


async def test_an_access_key_names_its_account_and_signs_calls(room: AwsRoom) -> None:
    user = await room.keys.user()
    connection = await room.connect_account(user)
    assert connection.account == f"arn:aws:iam::123456789012:user/{KEY_ID}"
    handle = await room.keys.allow_agent(user, connection, WRITE)
    put = await handle.call("PUT", "/bucket/a%20b.txt?x-id=PutObject", api="s3", content=b"hello")
    got = await handle.call("GET", "/bucket/a%20b.txt", api="s3")
    assert (put.status_code, put.headers["etag"], got.content) == (200, '"1"', b"hello")
    listed = await handle.call("GET", "/bucket?list-type=2&prefix=a%2Fb&delimiter=%2F", api="s3")
    assert listed.content == b"<ListBucketResult/>"
    assert (await handle.call("GET", "/", api="s3")).status_code == 200


async def test_head_tells_of_an_object_without_its_content(room: AwsRoom) -> None:
    user = await room.keys.user()
    connection = await room.connect_account(user)
    handle = await room.keys.allow_agent(user, connection, READ)
    room.aws.objects["/s3/bucket/one"] = b"hello"
    for method, content in (("HEAD", b""), ("GET", b"hello")):
        answer = await handle.call(method, "/bucket/one", api="s3")
        assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "5", content)
        assert room.server.arrivals[-1].method == method
    refused = await handle.call("HEAD", "/bucket/one", api="s3", content=b"x")
    assert (refused.status_code, refused.headers["token-vault-refusal"]) == (400, "body_refused")
    others = await room.keys.allow_agent(user, connection, ACCOUNT)
    refused = await others.call("HEAD", "/bucket/one", api="s3")
    assert (refused.status_code, refused.headers["token-vault-refusal"]) == (403, "scope_missing")
    try:
        room.aws.says = Reply(200, b"", {"content-type": "video/mp4"}, claimed_length=20_000_000_000)
        answer = await handle.call("HEAD", "/bucket/large", api="s3")
        assert (answer.status_code, answer.headers["content-length"]) == (200, "20000000000")
        assert (await handle.call("GET", "/bucket/large", api="s3")).status_code >= 500
    finally:
        room.aws.says = None


async def test_a_large_object_streams_without_its_hash(room: AwsRoom) -> None:
    user = await room.keys.user()
    handle = await room.keys.allow_agent(user, await room.connect_account(user), WRITE)
    large = bytes(300_000)
    assert (await handle.call("PUT", "/bucket/large", api="s3", content=large)).status_code == 200
    assert room.aws.objects["/s3/bucket/large"] == large
    assert room.server.arrivals[-1].headers["x-amz-content-sha256"] == UNSIGNED


async def test_a_header_that_changes_what_is_stored_passes_or_is_refused(room: AwsRoom) -> None:
    user = await room.keys.user()
    handle = await room.keys.allow_agent(user, await room.connect_account(user), WRITE)
    theirs = {
        "x-amz-meta-color": "blue",
        "cache-control": "max-age=60",
        "x-amz-server-side-encryption-customer-key": "a2V5",
    }
    own = {"x-amz-date": "20261127T000000Z", "x-amz-user-agent": "sdk", "x-request-id": "1"}
    answer = await handle.call("PUT", "/bucket/key", api="s3", content=b"x", headers=theirs | own)
    assert answer.status_code == 200
    arrived = {name.lower(): value for name, value in room.server.arrivals[-1].headers.items()}
    assert theirs.items() <= arrived.items()
    assert not own.items() & arrived.items()
    sent = len(room.server.arrivals)
    for name in ("x-amz-acl", "x-amz-tagging", "x-amz-object-lock-mode", "x-amz-trailer", "x-amz-unheard-of"):
        refused = await handle.call("PUT", "/bucket/key", api="s3", content=b"x", headers={name: "1"})
        assert (refused.status_code, refused.headers["token-vault-refusal"]) == (400, "header_refused")
        assert name in refused.text
    packed = await handle.call("PUT", "/bucket/key", api="s3", content=b"x", headers={"content-encoding": "gzip"})
    assert (packed.status_code, packed.headers["token-vault-refusal"]) == (415, "unsupported_body")
    assert len(room.server.arrivals) == sent


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/bucket/key", 200),
        ("PUT", "/bucket/key?acl", 403),  # it needs more: s3:manage
        ("PUT", "/bucket?policy", 403),
        ("DELETE", "/bucket", 403),
        ("GET", "/bucket/key?X-Amz-Signature=00", 400),
    ],
)
async def test_rules_say_what_a_key_may_be_used_for(room: AwsRoom, method: str, path: str, status: int) -> None:
    user = await room.keys.user()
    handle = await room.keys.allow_agent(user, await room.connect_account(user), WRITE)
    assert (await handle.call(method, path, api="s3")).status_code == status


@pytest.mark.parametrize(("action", "status"), [("GetCallerIdentity", 200), ("GetSessionToken", 403)])
async def test_the_token_service_says_who_it_is_and_issues_no_keys(room: AwsRoom, action: str, status: int) -> None:
    user = await room.keys.user()
    handle = await room.keys.allow_agent(user, await room.connect_account(user), ACCOUNT)
    answer = await handle.call("POST", "", api="sts", data={"Action": action, "Version": "2011-06-15"})
    assert answer.status_code == status, answer.text
    assert (SECRET in answer.text) is False


async def test_an_sdk_signs_with_the_handle_as_its_access_key(room: AwsRoom) -> None:
    user = await room.keys.user()
    handle = await room.keys.allow_agent(user, await room.connect_account(user), READ)
    scope = "20261127/eu-west-1/s3/aws4_request"
    theirs = f"AWS4-HMAC-SHA256 Credential={{}}/{scope}, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"
    for access_key, status in ((handle.value, 200), ("AKIAIOSFODNN7EXAMPLE", 401)):
        headers = {"authorization": theirs.format(access_key), "x-amz-date": "20261127T000000Z"}
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            answer = await http.get(f"{handle.base('s3')}/bucket", headers=headers)
        assert answer.status_code == status, answer.text
    assert "20261127T000000Z" not in str(dict(room.server.arrivals[-1].headers))


async def test_a_temporary_key_brings_its_session_token(room: AwsRoom) -> None:
    user = await room.keys.user()
    token = "IQoJb3JpZ2luX2Vj" * 8
    room.aws.keys["ASIAIOSFODNN7EXAMPLE"] = (SECRET, token)
    person = await room.keys.signed_in(user)
    values = {"access_key_id": "ASIAIOSFODNN7EXAMPLE", "secret_access_key": SECRET, "region": "eu-west-1"}
    refused = await room.keys.enter(person, await room.keys.form(person, "aws"), **values)
    assert "accept this" in refused.text
    assert await accounts_of(room.keys, user) == ()
    connection = await room.connect_account(user, access_key_id="ASIAIOSFODNN7EXAMPLE", session_token=token)
    handle = await room.keys.allow_agent(user, connection, READ)
    assert (await handle.call("GET", "/bucket", api="s3")).status_code == 200


async def test_a_key_that_was_deleted_ends_the_connection_at_the_next_call(room: AwsRoom) -> None:
    user = await room.keys.user()
    room.aws.keys["AKIAI44QH8DHBEXAMPLE"] = (SECRET, "")
    connection = await room.connect_account(user, access_key_id="AKIAI44QH8DHBEXAMPLE")
    handle = await room.keys.allow_agent(user, connection, READ)
    assert (await handle.call("GET", "/bucket", api="s3")).status_code == 200
    del room.aws.keys["AKIAI44QH8DHBEXAMPLE"]
    answer = await handle.call("GET", "/bucket", api="s3")
    assert answer.headers["token-vault-refusal"] == "connection_required"


@pytest.mark.parametrize(
    ("code", "message", "is_dead"),
    [
        ("SignatureDoesNotMatch", "Signature expired: 20261127T000000Z is now earlier than ...", False),
        ("SignatureDoesNotMatch", "Signature not yet current: 20261127T000000Z is still later than ...", False),
        ("", "Blocked by the company's firewall", False),
        ("SignatureDoesNotMatch", "The request signature we calculated does not match", True),
        ("InvalidClientTokenId", "The security token included in the request is invalid.", True),
    ],
)
@pytest.mark.parametrize("form", ["json", "xml"])
async def test_a_wrong_clock_and_a_firewall_say_nothing_about_a_key(
    room: AwsRoom, form: str, code: str, message: str, *, is_dead: bool
) -> None:
    user = await room.keys.user()
    person = await room.keys.signed_in(user)
    connection = await room.connect_account(user)
    handle = await room.keys.allow_agent(user, connection, ACCOUNT)
    if form == "json":
        room.aws.says = json_reply({"Error": {"Code": code, "Message": message}}, status=403)
    else:
        body = f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        room.aws.says = Reply(403, body.encode(), {"content-type": "text/xml"})
    try:
        values = {"access_key_id": KEY_ID, "secret_access_key": SECRET, "region": "eu-west-1"}
        page = await room.keys.enter(person, await room.keys.form(person, "aws"), **values)
        assert ("accept this" if is_dead else "confirm that this works") in page.text
        await handle.call("GET", "?Action=GetCallerIdentity&Version=2011-06-15", api="sts")
        upstream = room.keys.deployment.vault.upstreams["aws"]
        token = json.dumps({**values, "session_token": ""})
        asked = await upstream.probe(refresh_token=None, access_token=token, is_fresh=True, is_revoked=True)
        assert asked.outcome is (ProbeOutcome.DEAD if is_dead else ProbeOutcome.SILENT)
    finally:
        room.aws.says = None
    [held] = await accounts_of(room.keys, user)
    ended = is_dead and form == "xml"  # calls get answers in XML
    assert held.state.value == ("needs_reauth" if ended else "active")
