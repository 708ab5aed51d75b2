"""`activity export`: every event once, in each format according to its specification, tied to the signed log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from google.protobuf.json_format import Parse
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from providers.outbound.client import Outbound
from server.commands.activity.receivers import NotReceived, SyslogReceiver, receiver_at
from server.event_formats import FORMATS, ExportedEvent
from tests.support.commands import content, run
from tests.support.network.tls import make_authority
from tests.support.processes import Place
from vault.audit.merkle import leaf_hash
from vault.records import Event

EVENTS = (
    Event("signing_key.rotated", details={"kid": "k"}, at=1_800_000_000, sequence=1),
    Event("session.started", user_id="u", details={"method": "passkey"}, at=1_800_000_000, sequence=2),
    Event("session.refused", outcome="refused", details={"reason": "password"}, at=1_800_000_000, sequence=3),
    Event(
        "tool.called",
        outcome="failed",
        user_id="u",
        client_id="c",
        connection_id="a",
        details={"tool": "slack_post", "provider": "slack", "scopes": ["a", "b"], "milliseconds": 3, "is_new": True,
                 "request_id": "r", "share": 0.5, "text": 'a "quoted] \\ \nline'},
        at=1_800_000_000,
        sequence=4,
    ),
    Event("delegation.revoked", user_id="u", client_id="gone", at=1_800_000_000, sequence=5),
)  # fmt: skip
NAMES = {"u": 'Ali"ce]\n', "c": "My agent"}


def export_event(event: Event) -> ExportedEvent:
    return ExportedEvent(event, b"leaf", NAMES, "vault.test")


@cache
def schema() -> OcsfJsonSchemaEmbedded:
    return OcsfJsonSchemaEmbedded(get_ocsf_schema(version="1.6.0"))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_every_event_is_valid_ocsf(event: Event) -> None:
    row = json.loads(FORMATS["ocsf"](export_event(event)))
    name = schema().lookup_class_name_from_uid(class_uid=row["class_uid"])
    rules = schema().get_class_schema(class_name=name, profiles=[])
    jsonschema.Draft202012Validator(rules).validate(row)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(rules).validate({**row, "severity_id": "high"})
    assert row["metadata"]["sequence"] == event.sequence
    assert row["unmapped"]["leaf_hash"] == b64encode(leaf_hash(b"leaf")).decode()


def test_ocsf_tells_sign_ins_from_calls_and_what_a_call_did() -> None:
    rows = [json.loads(FORMATS["ocsf"](export_event(event))) for event in EVENTS]
    kinds = [(row["class_uid"], row["activity_id"], row["status_id"]) for row in rows]
    assert kinds == [(6003, 3, 1), (3002, 1, 1), (3002, 1, 2), (6003, 99, 2), (6003, 4, 1)]
    assert rows[3]["api"] == {"operation": "slack_post", "service": {"name": "slack"}, "request": {"uid": "r"}}
    assert rows[3]["actor"]["app_name"] == "My agent"


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_every_event_is_an_opentelemetry_log(event: Event) -> None:
    found = Parse(FORMATS["otlp"](export_event(event)), ExportLogsServiceRequest())
    (logs,) = found.resource_logs
    (record,) = logs.scope_logs[0].log_records
    assert record.time_unix_nano == 1_800_000_000 * 10**9
    assert record.event_name == event.kind
    facts = {one.key: one.value for one in record.attributes}
    assert facts["token_vault.sequence"].int_value == event.sequence
    if event.sequence == 4:
        assert record.severity_text == "ERROR"
        assert [one.string_value for one in facts["token_vault.details.scopes"].array_value.values] == ["a", "b"]
        assert facts["token_vault.details.is_new"].bool_value is True
        assert facts["token_vault.details.share"].double_value == 0.5


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_every_event_is_one_syslog_message(event: Event) -> None:
    """The messages follow RFC 5424 §6; a name can neither end its message nor break out of its field."""
    line = FORMATS["syslog"](export_event(event))
    value = r'"(?:[^"\\\]\x00-\x1f]|\\["\\\]])*"'
    data = rf"\[tokenVault@32473(?: [!-<>-~]{{1,32}}={value})+\]"
    found = re.fullmatch(rf"<(\d+)>1 (\S+) vault\.test token-vault - (\S{{1,32}}) {data} (\{{.*\}})", line)
    assert found is not None, line
    assert int(found[1]) == 104 + {"ok": 6, "refused": 4, "failed": 3}[event.outcome]
    assert (found[2], found[3]) == ("2027-01-15T08:00:00Z", event.kind)
    assert json.loads(found[4]) == dict(event.details)


@pytest.mark.parametrize("name", FORMATS)
def test_half_a_character_in_details_is_written_too(name: str) -> None:
    """JSON may contain half a surrogate pair, but UTF-8 can't: without handling, the export would get stuck there."""
    event = Event("signing_key.rotated", details={"kid": "a\ud800"}, at=1_800_000_000, sequence=1)
    assert b"ud800" in FORMATS[name](export_event(event)).encode("utf-8")


async def test_the_command_exports_each_event_once_and_goes_on_after_a_number(place: Place, tmp_path: Path) -> None:
    for _ in range(3):
        await content(place, "keys", "rotate-signing")
    file = tmp_path / "events.jsonl"
    said = await content(place, "activity", "export", "--until", "2", "--output", str(file))
    assert said == {"file": str(file), "last": 2}
    assert (await run(place, "activity", "export", "--after", "2", "--output", str(file))).exit_code == 0
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row["sequence"] for row in rows] == [1, 2, 3]
    for row in rows:
        leaf = b64decode(row["leaf"])
        assert row["leaf_hash"] == b64encode(leaf_hash(leaf)).decode()
        assert json.loads(leaf[16:])[1] == row["sequence"]
    for name in ("syslog", "otlp", "ocsf"):
        shown = await run(place, "activity", "export", "--format", name)
        assert len(shown.stdout.splitlines()) == 3
        assert rows[1]["leaf_hash"] in shown.stdout


class LogReceivers:
    """A syslog receiver and a collector on loopback; they accept nothing while `is_busy`."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.is_busy = False
        self.closes_early = False  # after each message
        self.answer = b"{}"  # of the collector

    async def syslog(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while not (self.closes_early and self.messages):
                length = int(await reader.readuntil(b" "))
                self.messages.append((await reader.readexactly(length)).decode())
        writer.close()

    async def collector(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(int(head.partition("content-length:")[2].split("\r\n")[0]))
        assert head.startswith("post /v1/logs http/1.1")
        if not self.is_busy:
            logs = json.loads(body)["resourceLogs"]
            self.records += [record for one in logs for record in one["scopeLogs"][0]["logRecords"]]
        status = b"503 Busy" if self.is_busy else b"200 OK"
        sent = status, len(self.answer), self.answer
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % sent)
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def log_receivers() -> AsyncGenerator[tuple[LogReceivers, str, str]]:
    found = LogReceivers()
    one = await asyncio.start_server(found.syslog, "127.0.0.1", 0)
    other = await asyncio.start_server(found.collector, "127.0.0.1", 0)
    async with one, other:
        ports = [each.sockets[0].getsockname()[1] for each in (one, other)]
        yield found, f"tcp://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"


async def test_events_are_sent_to_syslog_and_to_a_collector_each_once(place: Place, tmp_path: Path) -> None:
    for _ in range(3):
        await content(place, "keys", "rotate-signing")
    position = tmp_path / "sent"
    async with log_receivers() as (there, syslog, collector):
        first = await content(place, "activity", "export", "--to", syslog, "--until", "2", "--position", str(position))
        assert first == {"to": syslog, "last": 2}
        assert position.read_text() == "2\n"
        assert (await run(place, "activity", "export", "--to", syslog, "--position", str(position))).exit_code == 0
        there.is_busy = True
        refused = await run(place, "activity", "export", "--to", collector, "--after", "1")
        assert refused.exit_code == 1
        assert "status 503; the last event that was sent is 1" in refused.stderr
        there.is_busy = False
        assert (await run(place, "activity", "export", "--to", collector, "--after", "1")).exit_code == 0
        async with asyncio.timeout(30):
            while len(there.messages) < 3:
                await asyncio.sleep(0.05)
    assert [f'sequence="{number}"' in line for number, line in enumerate(there.messages, 1)] == [True] * 3
    numbers = [
        one["value"]["intValue"]
        for record in there.records
        for one in record["attributes"]
        if one["key"] == "token_vault.sequence"
    ]
    assert numbers == ["2", "3"]
    gone = await run(place, "activity", "export", "--to", syslog)
    assert (gone.exit_code, "can't be reached" in gone.stderr) == (1, True)


async def test_an_export_goes_on_after_the_later_of_both_numbers(place: Place, tmp_path: Path) -> None:
    for _ in range(3):
        await content(place, "keys", "rotate-signing")
    position = tmp_path / "sent"
    async with log_receivers() as (there, _, collector):
        send = ("activity", "export", "--to", collector, "--position", str(position))
        position.write_text("1\n")
        await content(place, *send, "--after", "2")
        assert len(there.records) == 1
        position.write_text("2\n")
        await content(place, *send, "--after", "1")
        assert len(there.records) == 2


async def test_what_a_collector_refuses_is_told_and_not_sent_again(place: Place, tmp_path: Path) -> None:
    for _ in range(2):
        await content(place, "keys", "rotate-signing")
    position = tmp_path / "sent"
    async with log_receivers() as (there, _, collector):
        there.answer = b'{"partialSuccess":{"rejectedLogRecords":"1"}}'
        send = ("activity", "export", "--to", collector, "--position", str(position))
        partly = await run(place, *send)
        assert partly.exit_code == 0
        assert f"{collector} refused 1 of the events up to 2" in partly.stderr
        again = await run(place, *send)
        assert (again.exit_code, "refused" in again.stderr, len(there.records)) == (0, False, 2)


async def test_a_syslog_receiver_that_closed_the_connection_gets_the_rest_on_another() -> None:
    async with log_receivers() as (there, address, _), asyncio.timeout(30):
        receiver = receiver_at(address, Outbound())
        assert isinstance(receiver, SyslogReceiver)
        there.closes_early = True
        await receiver.send(["first"])
        while not receiver.is_closed:
            await asyncio.sleep(0.01)
        there.closes_early = False
        await receiver.send(["second"])
        while len(there.messages) < 2:
            await asyncio.sleep(0.01)
        await receiver.close()
    assert there.messages == ["first", "second"]


async def test_events_go_only_to_a_syslog_receiver_with_a_trusted_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_authority(tmp_path, "localhost")
    there = LogReceivers()
    server = await asyncio.start_server(there.syslog, "127.0.0.1", 0, ssl=made.server())
    port = server.sockets[0].getsockname()[1]
    async with server, asyncio.timeout(30):
        with pytest.raises(NotReceived, match="CERTIFICATE_VERIFY_FAILED"):
            await receiver_at(f"tls://localhost:{port}", Outbound()).send(["secret"])
        monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
        with pytest.raises(NotReceived, match="CERTIFICATE_VERIFY_FAILED"):
            await receiver_at(f"tls://127.0.0.1:{port}", Outbound()).send(["secret"])
        receiver = receiver_at(f"tls://localhost:{port}", Outbound())
        await receiver.send(["known"])
        while not there.messages:
            await asyncio.sleep(0.01)
        await receiver.close()
    assert there.messages == ["known"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--to", "udp://127.0.0.1:514"), "use tcp://HOST:PORT"),
        (("--to", "tcp://127.0.0.1:1", "--format", "ocsf"), "takes the format syslog"),
        (("--to", "tcp://127.0.0.1:1", "--output", "x"), "either --output or --to"),
        (("--position", "x"), "--position needs --to"),
    ],
)
async def test_a_receiver_that_cannot_be_used_is_refused_with_a_reason(
    place: Place, options: tuple[str, ...], why: str
) -> None:
    await content(place, "keys", "rotate-signing")
    refused = await run(place, "activity", "export", *options)
    assert (refused.exit_code, why in refused.output) == (1, True), refused.output
