"""What operators are alerted by has its value on the page for Prometheus, and a collector gets the right names."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import httpx2
import pytest
from opentelemetry.sdk.metrics.export import HistogramDataPoint, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from server.app import open_deployment
from server.local_vault import open_local_vault
from server.runtime.version import VERSION
from server.settings import load_settings
from server.telemetry.meters import TIMES
from server.telemetry.tally import SECONDS, Tally
from tests.journeys.test_telemetry import WRITE, call, collector, scrape, value
from tests.support.processes import free_port
from tests.support.rooms.exchange_room import SECRET, exchange_room
from tests.support.rooms.mcp_room import room
from vault import spans
from vault.audit.audit import append
from vault.records import Event
from vault.refresh.breakers import SILENCES


async def test_what_is_wrong_or_waits_is_on_the_page(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    rules = tmp_path / "shadow"
    rules.mkdir()
    (rules / "posts.cedar").write_text('@id("posts") forbid (principal, action == Action::"slack_channels", resource);')
    overrides = {
        "telemetry": {"prometheus": address},
        "approvals": {"ask": ["slack_post"]},
        "policy": {"shadow_folder": str(rules)},
    }
    async with room(tmp_path, **overrides) as there:
        deployment = there.vault.deployment
        async with asyncio.timeout(60):
            while ("token_vault_approvals_waiting", frozenset()) not in (before := await scrape(address)):
                await asyncio.sleep(0.1)
        for name in ("approvals_waiting", "grants_ending", "breakers_open", "upkeep_failing"):
            assert value(before, f"token_vault_{name}") == 0, name
        agent = await there.agent()
        connection = await there.connect(agent, "slack", scopes=WRITE | {"channels:read"})
        await call(there, agent, "slack_channels", {})
        await call(there, agent, "slack_post", {"channel": "#general", "text": "hello"})
        now = deployment.now()
        async with deployment.transaction() as transaction:
            await transaction.execute(
                "update connections set created_at = :begun, consented_ms = :ms, grant_expires_at = :end",
                {"begun": now - 30 * 86_400, "ms": (now - 30 * 86_400) * 1000, "end": now + 2 * 86_400},
            )
        async with deployment.database.transaction(patient=True):
            pass
        for _ in range(SILENCES):
            deployment.vault.tasks.breakers.note_silence("slack", connection.id, now=now)
        deployment.failing_upkeep["outbox"] = "timeout"
        async with asyncio.timeout(60):
            while not value(found := await scrape(address), "token_vault_grants_ending"):
                await asyncio.sleep(0.1)
    assert {days: value(found, "token_vault_grants_ending", days=days) for days in ("1", "7", "30")} == {
        "1": 0,
        "7": 1,
        "30": 1,
    }
    assert value(found, "token_vault_breakers_open", provider="slack") == 1
    assert value(found, "token_vault_breakers_open", provider="google") == 0
    assert value(found, "token_vault_approvals_waiting") == 1
    assert now - 600 < value(found, "token_vault_activity_unsealed_seconds") <= now
    assert value(found, "token_vault_upkeep_failing") == 1
    assert value(found, "token_vault_policy_disagreements_total", decided="allow", would="forbid") == 1
    timed = {
        dict(labels)["operation"] for name, labels in found if name == "token_vault_storage_duration_seconds_count"
    }
    assert {"read", "transaction", "bulk"} <= timed  # an alert leaves out the last
    assert value(found, "process_resident_memory_bytes") > 1_000_000  # a panel shows it
    assert value(found, "target_info", service_name="token-vault", service_version=VERSION) == 1


@pytest.mark.parametrize(
    ("variables", "service", "key"),
    [
        ({}, "token-vault", None),
        ({"OTEL_SERVICE_NAME": "vault-eu", "OTEL_EXPORTER_OTLP_HEADERS": "api-key=1"}, "vault-eu", "1"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=vault-us"}, "vault-us", None),
    ],
)
async def test_the_collector_gets_the_names_and_headers_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], service: str, key: str | None
) -> None:
    for name, one in {"OTEL_TRACES_SAMPLER": "always_on", **variables}.items():
        monkeypatch.setenv(name, one)
    async with collector() as received:
        settings = load_settings(overrides={"telemetry": {"otlp_endpoint": received.url}})
        async with open_deployment(settings, data=tmp_path, is_measured=True) as deployment:
            assert deployment.telemetry is not None
            async with deployment.telemetry.run(deployment):
                with spans.span("exchange", provider="slack"):
                    pass
    resources = [one.resource for sent in received.metrics for one in sent.resource_metrics]
    resources += [one.resource for sent in received.traces for one in sent.resource_spans]
    assert (len(received.metrics), len(received.traces)) == (1, 1)
    told = [{one.key: one.value.string_value for one in resource.attributes} for resource in resources]
    assert {(one["service.name"], one["service.version"]) for one in told} == {(service, VERSION)}
    assert {one.get("api-key") for one in received.headers} == {key}


async def test_a_process_over_stdio_sends_its_figures_and_serves_no_page(tmp_path: Path) -> None:
    address, port = f"127.0.0.1:{free_port()}", free_port()
    async with collector() as received:
        overrides = {"telemetry": {"prometheus": address, "otlp_endpoint": received.url}, "server": {"port": port}}
        settings = load_settings(overrides=overrides)
        async with open_local_vault(
            settings, data=tmp_path, open_browser=None, client_name="Test", role="stdio"
        ) as local:
            with spans.span("exchange", provider="slack"):
                pass
            async with local.deployment.transaction() as transaction:
                await append(transaction, Event("grant.revoked"), now=local.deployment.now())
            with pytest.raises(LookupError):
                async with local.deployment.transaction():
                    raise LookupError
            with pytest.raises(httpx2.ConnectError):
                await scrape(address)
    found = {
        one.name: one
        for sent in received.metrics
        for resource in sent.resource_metrics
        for scope in resource.scope_metrics
        for one in scope.metrics
    }
    assert {"token_vault.exchange.duration", "token_vault.events"} <= set(found)
    points = found["token_vault.storage.duration"].histogram.data_points
    told = [{one.key: one.value.string_value for one in point.attributes} for point in points]
    assert {"operation": "transaction", "error": "LookupError"} in told
    assert {"operation": "transaction"} in told  # the twin


async def test_a_recorded_trace_is_whole_after_one_that_is_not_recorded(tmp_path: Path) -> None:
    traces = {recorded: f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{recorded}" for recorded in ("00", "01")}
    async with collector() as received:
        settings = load_settings(overrides={"telemetry": {"otlp_endpoint": received.url}})
        async with open_deployment(settings, data=tmp_path, is_measured=True) as deployment:
            for recorded in ("00", "01"):
                with spans.span("proxy", parent={"traceparent": traces[recorded]}):
                    async with deployment.transaction():
                        pass
                    with spans.span("exchange", provider="slack"):
                        pass
    named = {
        (one.trace_id.hex(), name)  # pyright: ignore[reportAttributeAccessIssue]
        for name, found in received.spans().items()
        for one in found
    }
    assert named == {(traces["01"].split("-")[1], name) for name in ("proxy", "exchange slack", "storage")}


async def test_a_rotation_is_counted_once_it_is_stored_and_a_refused_one_never(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with exchange_room(tmp_path, telemetry={"prometheus": address}) as there:
        caller = await there.caller()
        agent = await there.agent(caller, "rotating")
        form = {"grant_type": "refresh_token", "refresh_token": await there.refresh_token(agent)}
        form |= {"client_id": caller.client.id, "client_secret": SECRET}
        before = await scrape(address)
        answers = [await there.http.post("/token", data=form | more) for more in ({"scope": "nonsense"}, {})]
        assert [one.status_code for one in answers] == [400, 200]
        after = await scrape(address)
    counted = [value(one, "token_vault_events_total", kind="token.refreshed", outcome="ok") for one in (before, after)]
    assert counted == [0, 1]


def test_a_histogram_has_each_time_in_its_bucket_since_the_start() -> None:
    tally = Tally(TIMES)
    times = tally.times("storage", (("operation", "read"),))
    for seconds in (0.001, 0.0011, 0.3, 100.0):
        times.add(seconds)
    first, second = (
        tally.with_times(MetricsData([]), Resource({}), InstrumentationScope("test")).resource_metrics[0]
        for _ in range(2)
    )
    (metric,), (later,) = first.scope_metrics[0].metrics, second.scope_metrics[0].metrics
    (point,), (again,) = metric.data.data_points, later.data.data_points
    assert isinstance(point, HistogramDataPoint)
    assert (metric.name, metric.unit, point.attributes) == ("token_vault.storage.duration", "s", {"operation": "read"})
    assert (point.count, point.sum, point.min, point.max) == (4, pytest.approx(100.3021), 0.001, 100.0)
    filled = {bound: count for bound, count in zip((*SECONDS, None), point.bucket_counts, strict=True) if count}
    assert filled == {0.001: 1, 0.0025: 1, 0.5: 1, None: 1}
    assert point.start_time_unix_nano == again.start_time_unix_nano < point.time_unix_nano
