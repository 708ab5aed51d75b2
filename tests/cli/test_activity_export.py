"""`activity export`: every event once, in each format as its own specification reads it, tied to the signed log."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from functools import cache
from pathlib import Path

import jsonschema
import pytest
from google.protobuf.json_format import Parse
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from server.event_formats import FORMATS, ExportedEvent
from tests.support.commands import content, run
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


def exported(event: Event) -> ExportedEvent:
    return ExportedEvent(event, b"leaf", NAMES, "vault.test")


@cache
def schema() -> OcsfJsonSchemaEmbedded:
    return OcsfJsonSchemaEmbedded(get_ocsf_schema(version="1.6.0"))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_every_event_is_valid_ocsf(event: Event) -> None:
    row = json.loads(FORMATS["ocsf"](exported(event)))
    name = schema().lookup_class_name_from_uid(class_uid=row["class_uid"])
    rules = schema().get_class_schema(class_name=name, profiles=[])
    jsonschema.Draft202012Validator(rules).validate(row)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(rules).validate({**row, "severity_id": "high"})
    assert row["metadata"]["sequence"] == event.sequence
    assert row["unmapped"]["leaf_hash"] == b64encode(leaf_hash(b"leaf")).decode()


def test_ocsf_tells_sign_ins_from_calls_and_what_a_call_did() -> None:
    rows = [json.loads(FORMATS["ocsf"](exported(event))) for event in EVENTS]
    kinds = [(row["class_uid"], row["activity_id"], row["status_id"]) for row in rows]
    assert kinds == [(6003, 3, 1), (3002, 1, 1), (3002, 1, 2), (6003, 99, 2), (6003, 4, 1)]
    assert rows[3]["api"] == {"operation": "slack_post", "service": {"name": "slack"}, "request": {"uid": "r"}}
    assert rows[3]["actor"]["app_name"] == "My agent"


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_every_event_is_an_opentelemetry_log(event: Event) -> None:
    found = Parse(FORMATS["otlp"](exported(event)), ExportLogsServiceRequest())
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
    """The grammar of RFC 5424 §6; a name can neither end the message nor leave its place."""
    line = FORMATS["syslog"](exported(event))
    value = r'"(?:[^"\\\]\x00-\x1f]|\\["\\\]])*"'
    data = rf"\[tokenVault@32473(?: [!-<>-~]{{1,32}}={value})+\]"
    found = re.fullmatch(rf"<(\d+)>1 (\S+) vault\.test token-vault - (\S{{1,32}}) {data} (\{{.*\}})", line)
    assert found is not None, line
    assert int(found[1]) == 104 + {"ok": 6, "refused": 4, "failed": 3}[event.outcome]
    assert (found[2], found[3]) == ("2027-01-15T08:00:00Z", event.kind)
    assert json.loads(found[4]) == dict(event.details)


@pytest.mark.parametrize("name", FORMATS)
def test_half_a_character_in_details_is_written_too(name: str) -> None:
    """JSON may hold one, and UTF-8 can't: a file would refuse it, and the export would stop there for good."""
    event = Event("signing_key.rotated", details={"kid": "a\ud800"}, at=1_800_000_000, sequence=1)
    assert b"ud800" in FORMATS[name](exported(event)).encode("utf-8")


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
