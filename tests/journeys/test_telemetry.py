"""Metrics and traces: what Prometheus and an OpenTelemetry collector actually receive, and what they never receive."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import pytest
from opentelemetry.metrics import NoOpMeter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.api.api import ToolRefused, UpstreamRefused
from providers.remote.sightings import ToolHeld
from server.app import open_deployment
from server.errors import CALL_FAILURES
from server.provider_settings import SettingsRefused
from server.settings import load_settings
from server.telemetry.figures_page import CONNECTIONS
from server.telemetry.gauges import GAUGES, READ_COUNTS
from server.telemetry.meters import COUNTS, TIMES, Meters
from server.telemetry.tally import MOST_SERIES, OTHER, Count, Tally
from tests.conftest import Store, unavailable
from tests.support.harness import free_socket, serve_app
from tests.support.processes import ROOT, Place, free_port
from tests.support.rooms.mcp_room import Agent, Room, modern, modern_headers, room
from tests.support.rooms.proxy_room import proxy_room
from vault.storage.event_chain import ChainEntry
from vault.upkeep.census import REFRESHES

WRITE = frozenset({"chat:write"})
RULES = ROOT / "docs" / "operate" / "monitoring" / "alerts.yml"
NEEDS_PROMETHEUS = "tests of the metrics need: apt-get install prometheus"
DASHBOARD = ROOT / "docs" / "operate" / "monitoring" / "dashboard.json"
LATER = {  # missing while a vault has no accounts and no events
    "token_vault_connections", "token_vault_activity_unsealed_seconds",
}  # fmt: skip
NOT_SENT = {  # without a sealed event, a call of the proxy, and rules
    "token_vault.activity.sealed", "token_vault.proxy.calls", "token_vault.proxy.duration",
    "token_vault.policy.disagreements",
}  # fmt: skip
LABELS = {  # every existing label: outsiders can't add values to any
    "code", "days", "error", "key", "kind", "le", "narrowing", "operation", "outcome", "provider", "state", "status",
    "tool", "transport",
}  # fmt: skip


@dataclass
class Collector:
    """An OpenTelemetry collector that keeps what it receives."""

    url: str
    bodies: list[bytes] = field(default_factory=list[bytes])
    headers: list[Headers] = field(default_factory=list[Headers])
    traces: list[ExportTraceServiceRequest] = field(default_factory=list[ExportTraceServiceRequest])
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list[ExportMetricsServiceRequest])

    def spans(self) -> dict[str, list[object]]:
        """This product's spans by name."""
        found: dict[str, list[object]] = {}
        for request in self.traces:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        found.setdefault(span.name, []).append(span)
        return found


@asynccontextmanager
async def collector() -> AsyncGenerator[Collector]:
    """Listens on 127.0.0.1."""
    listening = free_socket()
    made = Collector(f"http://127.0.0.1:{listening.getsockname()[1]}")

    def receive(kind: Callable[[], object], kept: list[object]) -> Callable[[Request], object]:
        async def endpoint(request: Request) -> Response:
            made.headers.append(request.headers)
            body = await request.body()
            if request.headers.get("content-encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            made.bodies.append(body)
            message = kind()
            message.ParseFromString(body)  # pyright: ignore[reportAttributeAccessIssue] -- of a generated class
            kept.append(message)
            return Response(b"", media_type="application/x-protobuf")

        return endpoint

    routes = [
        Route("/v1/traces", receive(ExportTraceServiceRequest, made.traces), methods=["POST"]),
        Route("/v1/metrics", receive(ExportMetricsServiceRequest, made.metrics), methods=["POST"]),
    ]
    async with serve_app(Starlette(routes=routes), listening):
        yield made


async def call(there: Room, agent: Agent, name: str, arguments: dict[str, object], **meta: object) -> dict[str, object]:
    body = modern("tools/call", {"name": name, "arguments": arguments})
    body["params"]["_meta"] |= meta  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]
    async with there.http(agent) as http:
        answer = await http.post("/mcp", json=body, headers=modern_headers("tools/call", name))
    return answer.json()


async def scrape(address: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of the page."""
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        page = (await http.get(f"http://{address}/metrics")).text
    return {
        (
            sample.name,
            frozenset(pair for pair in sample.labels.items() if not pair[0].startswith("otel_")),
        ): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def value(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, **labels: str) -> float:
    """The sum of the samples that have at least these labels."""
    wanted = set(labels.items())
    return sum(number for (found, has), number in samples.items() if found == name and wanted <= has)


async def test_a_call_a_refusal_and_a_refresh_reach_prometheus_and_the_collector_without_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    address = f"127.0.0.1:{free_port()}"
    text, trace = f"words {secrets.token_hex(8)}", f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    async with collector() as received:
        telemetry = {"prometheus": address, "otlp_endpoint": received.url}
        async with room(tmp_path, telemetry=telemetry) as there:
            agent = await there.agent()
            connection = await there.connect(agent, "slack", scopes=WRITE)
            await call(there, agent, "slack_post", {"channel": "#general", "text": text}, traceparent=trace)
            await call(there, agent, "calendar_list", {})  # not connected
            async with there.vault.deployment.transaction() as transaction:
                await transaction.execute("update connections set access_expires_at = 1")
            await call(there, agent, "slack_post", {"channel": "#general", "text": text})
            async with asyncio.timeout(60):
                while not value(samples := await scrape(address), "token_vault_connections"):
                    await asyncio.sleep(0.1)
            held = await there.vault.deployment.database.fetch_one(
                "select account, label from connections where id = :id", {"id": connection.id}
            )
        books = there.simulator.books()
    assert value(samples, "token_vault_tool_calls_total", tool="slack_post", outcome="ok") == 2
    assert value(samples, "token_vault_tool_calls_total", tool="calendar_list", outcome="refused") == 1
    assert value(samples, "token_vault_exchanges_total", provider="slack") == 2
    assert value(samples, "token_vault_refusals_total", provider="google", code="connection_required") == 1
    assert value(samples, "token_vault_refreshes_total", provider="slack", outcome="ok") == 1
    assert value(samples, "token_vault_refresh_duration_seconds_count", provider="slack") == 1
    assert value(samples, "token_vault_upstream_duration_seconds_count", provider="slack", status="2xx") >= 3
    assert value(samples, "token_vault_connections", provider="slack", state="active") == 1
    assert value(samples, "token_vault_breakers_open") == 0
    assert value(samples, "token_vault_key_uses_total", key="access_token", operation="open") >= 2
    assert value(samples, "token_vault_key_uses_total", operation="sign") >= 1
    assert value(samples, "token_vault_key_uses_total", operation="wrap") >= 1
    assert value(samples, "token_vault_journal_size_bytes") > 0
    assert value(samples, "token_vault_activity_newest_seconds") > 0
    assert ("token_vault_approvals_waiting", frozenset()) in samples
    ours = [(name, labels) for name, labels in samples if name.startswith("token_vault_")]
    assert {label for _, labels in ours for label, _ in labels} <= LABELS

    spans = received.spans()
    posted = spans["execute_tool slack_post"][0]
    assert posted.trace_id.hex() == trace.split("-")[1]  # pyright: ignore[reportAttributeAccessIssue]
    assert posted.parent_span_id.hex() == trace.split("-")[2]  # pyright: ignore[reportAttributeAccessIssue]
    told = {one.key: one.value for one in posted.attributes}
    assert told["gen_ai.tool.name"].string_value == "slack_post"
    assert told["token_vault.transport"].string_value == "http"
    assert re.fullmatch("[0-9a-f]{16}", told["token_vault.request_id"].string_value)
    assert posted.status.code == Status.STATUS_CODE_UNSET
    assert 0 < posted.start_time_unix_nano < posted.end_time_unix_nano
    for name in ("exchange slack", "upstream slack"):
        (below,) = [one for one in spans[name] if one.trace_id == posted.trace_id]
        assert below.parent_span_id == posted.span_id, name
        assert posted.start_time_unix_nano <= below.start_time_unix_nano, name
        assert below.end_time_unix_nano <= posted.end_time_unix_nano, name
    refused = spans["execute_tool calendar_list"][0]
    assert refused.status.code == Status.STATUS_CODE_ERROR
    assert ("error.type", "connection_required") in [(one.key, one.value.string_value) for one in refused.attributes]
    assert refused.parent_span_id == b""
    assert refused.trace_id != posted.trace_id  # pyright: ignore[reportAttributeAccessIssue]
    (refreshed,) = spans["refresh slack"]
    written = {one.trace_id for one in spans["storage"]}  # pyright: ignore[reportAttributeAccessIssue]
    assert refreshed.trace_id in written  # pyright: ignore[reportAttributeAccessIssue]
    for one in spans["storage"]:
        assert one.start_time_unix_nano < one.end_time_unix_nano  # pyright: ignore[reportAttributeAccessIssue]
    named = {
        one.name
        for request in received.metrics
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for one in scope.metrics
    }
    every = {*COUNTS, *READ_COUNTS, *(one.name for one in GAUGES), *(name for name, _ in TIMES.values())}
    assert every - named == NOT_SENT

    assert held is not None
    secret = [text, agent.token, connection.id, agent.principal.user_id, agent.principal.client_id]
    secret += [str(held["account"]), str(held["label"]), "xoxe", *(str(post["channel"]) for post in books["posts"])]
    sent = b"".join(received.bodies)
    for one in secret:
        assert one.encode() not in sent, one


async def test_a_trace_is_recorded_if_its_caller_records_it_and_rarely_otherwise(tmp_path: Path) -> None:
    async with collector() as received, room(tmp_path, telemetry={"otlp_endpoint": received.url}) as there:
        agent = await there.agent()
        await there.connect(agent, "slack", scopes=WRITE)
        posted = {"channel": "#general", "text": "hello"}
        traces = [f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-0{recorded}" for recorded in (0, 1)]
        for trace in traces:
            await call(there, agent, "slack_post", posted, traceparent=trace)
        for _ in range(20):
            await call(there, agent, "slack_post", posted)
        assert there.vault.deployment.telemetry is not None
    spans = received.spans()
    found = {one.trace_id.hex() for one in spans["execute_tool slack_post"]}  # pyright: ignore[reportAttributeAccessIssue]
    assert traces[1].split("-")[1] in found
    assert traces[0].split("-")[1] not in found
    assert len(found) < 15  # one of 20 is expected
    of_calls = {one.trace_id.hex() for one in spans.get("storage", [])}  # pyright: ignore[reportAttributeAccessIssue]
    assert of_calls <= found  # storage starts no trace


async def test_a_proxied_call_is_one_trace_of_its_caller_and_strangers_begin_none(tmp_path: Path) -> None:
    traces = [f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01" for _ in range(3)]
    async with collector() as received, proxy_room(tmp_path, telemetry={"otlp_endpoint": received.url}) as there:
        handle = await there.ready()
        done = await handle.call(json={"channel": "C1", "text": "hi"}, headers={"traceparent": traces[0]})
        refused = await handle.call(path="/no.such", headers={"traceparent": traces[1]})
        unknown = await replace(handle, value="tvp_unknown").call(headers={"traceparent": traces[2]})
        assert [one.status_code for one in (done, refused, unknown)] == [200, 403, 401]
    spans = received.spans()
    by_trace = {one.trace_id.hex(): one for one in spans["proxy slack"]}  # pyright: ignore[reportAttributeAccessIssue]
    called, not_allowed = (by_trace.pop(trace.split("-")[1]) for trace in traces[:2])
    assert traces[2].split("-")[1] not in str(by_trace)
    assert called.parent_span_id.hex() == traces[0].split("-")[2]  # pyright: ignore[reportAttributeAccessIssue]
    for name in ("exchange slack", "upstream slack"):
        assert called.span_id in {one.parent_span_id for one in spans[name]}, name  # pyright: ignore[reportAttributeAccessIssue]
    assert called.status.code == Status.STATUS_CODE_UNSET  # pyright: ignore[reportAttributeAccessIssue]
    assert not_allowed.status.code == Status.STATUS_CODE_ERROR  # pyright: ignore[reportAttributeAccessIssue]
    told = {one.key: one.value.string_value for one in not_allowed.attributes}  # pyright: ignore[reportAttributeAccessIssue]
    assert told["error.type"] == refused.headers["token-vault-refusal"]


async def test_a_sampler_of_the_operator_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    recorded = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    async with collector() as received, room(tmp_path, telemetry={"otlp_endpoint": received.url}) as there:
        agent = await there.agent()
        await there.connect(agent, "slack", scopes=WRITE)
        await call(there, agent, "slack_post", {"channel": "#general", "text": "hello"}, traceparent=recorded)
    assert received.metrics
    assert set(received.spans()).isdisjoint({"execute_tool slack_post", "exchange slack", "upstream slack", "storage"})


async def test_the_labels_of_a_stranger_are_not_multiplied(tmp_path: Path) -> None:
    """A thousand names of nonexistent tools don't make a thousand time series."""
    address = f"127.0.0.1:{free_port()}"
    async with room(tmp_path, telemetry={"prometheus": address}) as there:
        agent = await there.agent()
        before = len(await scrape(address))
        for number in range(20):
            await call(there, agent, f"tool_{number}", {})
        after = {name for name, labels in await scrape(address) if "tool_" in str(labels)}
        assert after == set()
        assert len(await scrape(address)) < before + 400


async def test_what_a_provider_refuses_is_one_label_whatever_it_says(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with room(tmp_path, telemetry={"prometheus": address}) as there:
        agent = await there.agent()
        await there.connect(agent, "slack", scopes=WRITE)
        for channel in ("#general", "C0NOWHERE01"):
            await call(there, agent, "slack_post", {"channel": channel, "text": "hello"})
        async with asyncio.timeout(60):  # events are counted after their commit
            while value(samples := await scrape(address), "token_vault_tool_calls_total") < 2:
                await asyncio.sleep(0.1)
    assert value(samples, "token_vault_tool_calls_total", tool="slack_post", code="upstream_refused") == 1
    assert value(samples, "token_vault_tool_calls_total", tool="slack_post", outcome="ok") == 1
    assert value(samples, "token_vault_tool_duration_seconds_count", tool="slack_post", error="upstream_refused") == 1
    assert "not_found" not in str(samples)


@pytest.mark.parametrize("sampler", [None, "always_on", "always_off"])
async def test_requests_to_a_provider_are_timed_alike_with_and_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str | None
) -> None:
    address, telemetry = f"127.0.0.1:{free_port()}", {}
    async with collector() as received:
        if sampler is not None:
            monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
            telemetry = {"otlp_endpoint": received.url}
        async with room(tmp_path, telemetry={"prometheus": address, **telemetry}) as there:
            agent = await there.agent()
            await there.connect(agent, "slack", scopes=WRITE)
            before = await scrape(address)
            for fault in (None, {"kind": "status", "status": 503}, {"kind": "drop_after"}):
                if fault is not None:
                    there.simulator.control("faults", endpoint="slack.api.chat.postMessage", **fault)
                await call(there, agent, "slack_post", {"channel": "#general", "text": "hello"})
            after = await scrape(address)
    counted = {
        dict(labels).get("status") or dict(labels)["error"]: count - before.get((name, labels), 0)
        for (name, labels), count in after.items()
        if name == "token_vault_upstream_duration_seconds_count" and ("operation", "api") in labels
    }
    assert counted == {"2xx": 1, "5xx": 1, "NoAnswer": 1}
    assert ("upstream slack" in received.spans()) == (sampler == "always_on")


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"prometheus": "9464"}, "HOST:PORT"),
        ({"otlp_endpoint": "localhost:4318"}, "http://host:4318"),
        ({"otlp_endpoint": "http://user:secret@localhost:4318"}, "OTEL_EXPORTER_OTLP_HEADERS"),
        ({"prometheus": "127.0.0.1:9464", "otlp_endpoint": "http://localhost:4318/"}, None),
    ],
)
def test_addresses_that_cannot_be_used_are_refused_with_the_form(section: dict[str, str], problem: str | None) -> None:
    if problem is None:
        settings = load_settings(overrides={"telemetry": section})
        assert settings.telemetry.otlp_endpoint == "http://localhost:4318"
        return
    with pytest.raises(SettingsRefused, match=problem):
        load_settings(overrides={"telemetry": section})


async def test_a_taken_port_stops_the_start_and_names_the_setting(tmp_path: Path) -> None:
    with free_socket() as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = load_settings(overrides={"telemetry": {"prometheus": address}})
        async with open_deployment(settings, data=tmp_path, is_measured=True) as deployment:
            assert deployment.telemetry is not None
            with pytest.raises(SettingsRefused, match=r"telemetry\.prometheus"):
                async with deployment.telemetry.run(deployment):
                    pass


async def test_silent_connections_to_the_page_make_room_and_cost_no_thread(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    settings = load_settings(overrides={"telemetry": {"prometheus": address}})
    async with open_deployment(settings, data=tmp_path, is_measured=True) as deployment:
        assert deployment.telemetry is not None
        async with deployment.telemetry.run(deployment):
            threads, host, port = threading.active_count(), *address.split(":")
            silent = [await asyncio.open_connection(host, int(port)) for _ in range(2 * CONNECTIONS)]
            assert await scrape(address)
            assert threading.active_count() < threads + CONNECTIONS // 2
            async with asyncio.timeout(30):  # the first ones had to be closed
                assert await silent[0][0].read() == b""
            for _, writer in silent:
                writer.transport.abort()


def queries() -> Iterator[str]:
    """Every expression of the dashboard."""
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def test_the_alert_rules_are_valid_and_each_has_its_runbook() -> None:
    if shutil.which("promtool") is None:
        unavailable(NEEDS_PROMETHEUS)
    checked = subprocess.run(["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    page = (ROOT / "docs" / "operate" / "metrics.md").read_text(encoding="utf-8")
    names = [line.split()[-1] for line in RULES.read_text(encoding="utf-8").splitlines() if "alert:" in line]
    assert len(names) >= 6
    for name in names:
        assert f"### {name}\n" in page, f"{name} has no runbook"


@dataclass
class Replica(Place):
    """A process of a vault whose database and key other processes share."""

    more: dict[str, str] = field(default_factory=dict[str, str])

    def environment(self) -> dict[str, str]:
        return super().environment() | self.more


@pytest.mark.long
async def test_prometheus_scrapes_two_replicas_and_understands_the_dashboard_and_the_rules(
    postgres_store: Store, tmp_path: Path
) -> None:
    if shutil.which("prometheus") is None:
        unavailable(NEEDS_PROMETHEUS)
    replicas, pages = [], []
    for number in range(2):
        (data := tmp_path / str(number)).mkdir(mode=0o700)
        shutil.copy2(postgres_store.data / "master.key", data)
        pages.append(f"127.0.0.1:{free_port()}")
        shared = {
            "TOKEN_VAULT_DATABASE__URL": postgres_store.url,
            "TOKEN_VAULT_TELEMETRY__PROMETHEUS": pages[-1],
        }
        replicas.append(Replica(data, free_port(), shared))
        replicas[-1].configure()
    config = tmp_path / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(RULES)],
                "scrape_configs": [{"job_name": "token-vault", "static_configs": [{"targets": pages}]}],
            }
        ),
        encoding="utf-8",
    )
    async with replicas[0].serve(), replicas[1].serve(), prometheus(config, tmp_path / "tsdb") as http:

        async def query(expression: str) -> list[dict[str, object]]:
            answer = (await http.get("/api/v1/query", params={"query": expression})).json()
            assert answer["status"] == "success", (expression, answer)
            return answer["data"]["result"]

        async with asyncio.timeout(60):
            while len(await query('up{job="token-vault"} == 1 and on(instance) token_vault_upkeep_failing')) < 2:
                await asyncio.sleep(0.3)
        for expression in queries():
            await query(expression)
        (group,) = (await http.get("/api/v1/rules")).json()["data"]["groups"]
        assert {rule["health"] for rule in group["rules"]} == {"ok"}
        assert {rule["name"] for rule in group["rules"] if rule["state"] == "firing"} == set()
        known = set((await http.get("/api/v1/label/__name__/values")).json()["data"])
        named = set(re.findall(r"token_vault_\w+", " ".join(queries()) + RULES.read_text(encoding="utf-8")))
        # the others appear after the first call, exchange, or refresh
        assert {name for name in named if "_total" not in name and "_duration_" not in name} <= known | LATER


@asynccontextmanager
async def prometheus(config: Path, data: Path) -> AsyncGenerator[httpx2.AsyncClient]:
    """Debian's Prometheus, with its API."""
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}", f"--web.listen-address={address}"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx2.AsyncClient(base_url=f"http://{address}", trust_env=False, timeout=30) as http:
            async with asyncio.timeout(30):
                while True:
                    try:
                        if (await http.get("/-/ready")).status_code == 200:
                            break
                    except httpx2.HTTPError:
                        pass
                    await asyncio.sleep(0.1)
            yield http
    finally:
        process.terminate()
        await process.wait()


def test_what_labels_ignore_takes_no_place_among_the_times() -> None:
    meters = Meters(NoOpMeter("test"), None, Tally(TIMES), is_provider=lambda _: True, is_tool=lambda _: True)
    for status in range(200, 210):
        meters.end("upstream", 0.1, {"provider": "slack", "method": "GET", "http_status": status})
    assert len(meters._bound["upstream"]) == 1  # pyright: ignore[reportPrivateUsage]
    for status in range(400, 410):
        meters.end("upstream", 0.1, {"provider": "slack", "method": "GET", "http_status": status, "error": "NoAnswer"})
    assert len(meters._bound["upstream"]) == 2  # pyright: ignore[reportPrivateUsage]
    for number in range(3):
        meters.end("upstream", 0.1, {"provider": f"slack-{number}", "method": "GET", "http_status": 200})
    assert len(meters._bound["upstream"]) == 5  # pyright: ignore[reportPrivateUsage]


def test_a_time_is_kept_under_the_labels_of_its_outcome() -> None:
    meters, tally = counting_meters()
    success = {"provider": "slack", "operation": "web", "method": "GET", "http_status": 200, "status": "2xx"}
    for one in (success, success, success | {"error": "NoAnswer"}, {"provider": "slack", "error": "NoAnswer"}):
        meters.end("upstream", 0.1, one)
    for error in (None, TimeoutError(), None):
        meters.end_storage("look_up", time.perf_counter(), error)
    kept = {labels: times.count for labels, times in (tally._times["upstream"] | tally._times["storage"]).items()}
    called = (("provider", "slack"), ("operation", "web"), ("status", "2xx"))
    assert kept == {
        called: 2,
        (*called, ("error", "NoAnswer")): 1,
        (("provider", "slack"), ("error", "NoAnswer")): 1,
        (("operation", "look_up"),): 2,
        (("operation", "look_up"), ("error", "TimeoutError")): 1,
    }


def counting_meters() -> tuple[Meters, Tally]:
    tally = Tally(TIMES)
    return Meters(NoOpMeter("test"), None, tally, is_provider=lambda _: True, is_tool=lambda _: True), tally


def failed_call(code: str, tool: str = "slack_post") -> ChainEntry:
    return ChainEntry("tool.called", "failed", None, None, None, "", {"tool": tool, "code": code})


def test_codes_that_providers_make_up_take_no_place_among_the_counts() -> None:
    meters, tally = counting_meters()
    meters.count([failed_call(f"code-{number}") for number in range(50)])
    meters.count([failed_call("timeout")] * 2)
    counted = {dict(labels)["code"]: one.times for labels, one in tally.counts["token_vault.tool.calls"].items()}
    assert counted == {"upstream_refused": 50, "timeout": 2}
    assert len(meters._counted) == 1
    assert [one.times for one in tally.counts["token_vault.events"].values()] == [52]


def test_repeats_count_in_an_events_own_counter_and_once_among_all_events() -> None:
    meters, tally = counting_meters()
    refused = {"provider": "slack", "code": "connection_required"}
    for said in (refused, {**refused, "repeats": 7}):
        meters.count([ChainEntry("exchange.refused", "refused", None, None, None, "", said)])
    meters.count([ChainEntry("grant.revoked", "ok", None, None, None, "", {})] * 3)
    (refusals,) = tally.counts["token_vault.refusals"].items()
    assert refusals == ((("provider", "slack"), ("code", "connection_required")), Count(8))
    events = {dict(labels)["kind"]: one.times for labels, one in tally.counts["token_vault.events"].items()}
    assert events == {"exchange.refused": 2, "grant.revoked": 3}


def test_refreshes_are_counted_by_what_became_of_them() -> None:
    meters, tally = counting_meters()
    for kind in REFRESHES:
        outcome = "ok" if kind == "connection.refreshed" else "failed"
        meters.count([ChainEntry(kind, outcome, None, None, None, "", {"provider": "slack"})])
    counted = {tuple(value for _, value in labels) for labels in tally.counts["token_vault.refreshes"]}
    assert counted == {("slack", "ok"), ("slack", "unanswered"), ("slack", "needs_reauth")}


def test_the_proxys_calls_are_counted_by_the_code_of_their_refusal_or_failure() -> None:
    meters, tally = counting_meters()
    ended = [("ok", {}), ("refused", {"code": "not_allowed"}), ("failed", {"code": "answer_too_large"})]
    for outcome, more in ended:
        meters.count([ChainEntry("proxy.called", outcome, None, None, None, "", {"provider": "slack", **more})])
    counted = {tuple(value for _, value in labels) for labels in tally.counts["token_vault.proxy.calls"]}
    assert counted == {
        ("slack", "ok", ""),
        ("slack", "refused", "not_allowed"),
        ("slack", "failed", "answer_too_large"),
    }


def test_every_code_of_a_failed_call_that_is_ours_is_a_label() -> None:
    kinds = {one for one in ToolRefused.__subclasses__() if one is not UpstreamRefused}
    assert ToolHeld in kinds
    assert {one.code for one in kinds} <= CALL_FAILURES


def test_series_have_a_bound_and_what_comes_after_it_is_one() -> None:
    meters, tally = counting_meters()
    for number in range(MOST_SERIES + 5):
        meters.count([failed_call("timeout", f"tool_{number}")])
        meters.end("execute_tool", 0.1, {"tool": f"tool_{number}"})
    counted, timed = tally.counts["token_vault.tool.calls"], tally._times["execute_tool"]
    assert (len(counted), len(timed)) == (MOST_SERIES + 1, MOST_SERIES + 1)
    assert [one.times for labels, one in counted.items() if dict(labels)["tool"] == OTHER] == [5]
    assert timed[("tool", OTHER),].count == 5
    assert timed[("tool", "tool_9999"),].count == 1
