"""What Prometheus makes of the alert rules and the dashboard in docs/operate/monitoring, with figures given to it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.conftest import unavailable
from tests.generating.documentation import DOCS
from tests.generating.marked_parts import metrics_in_prometheus

RULES: Final = DOCS / "operate/monitoring/alerts.yml"
DASHBOARD: Final = DOCS / "operate/monitoring/dashboard.json"
OF_ANY_PROCESS: Final = {"process_resident_memory_bytes"}
BUCKETS: Final = ("0.5", "1.0", "+Inf")
Figures = Mapping[str, str]  # values by series, one a minute, in promtool's notation


@dataclass(frozen=True)
class Case:
    """Figures that make an alert fire after so many minutes, and figures just below its limit."""

    minutes: int
    fires: Figures
    is_quiet: Figures
    labels: Mapping[str, str]
    summary: str


def refreshes(ok: str, failed: str) -> Figures:
    counted = "token_vault_refresh_duration_seconds_count"
    return {f'{counted}{{provider="slack"}}': ok, f'{counted}{{provider="slack",error="timeout"}}': failed}


def dead(values: str) -> Figures:
    return {'token_vault_refreshes_total{provider="slack",outcome="needs_reauth"}': values}


def statements(operation: str, *counts: str) -> Figures:
    named = f'token_vault_storage_duration_seconds_bucket{{operation="{operation}",le='
    return {f'{named}"{le}"}}': count for le, count in zip(BUCKETS, counts, strict=True)}


ONE: Final = 'instance="vault-1:9464"'
PAGE, TICKET = {"severity": "page"}, {"severity": "ticket"}
SLACK: Final = {"provider": "slack"}
INSTANCE: Final = {"instance": "vault-1:9464"}
CASES: Final[Mapping[str, Case]] = {
    "VaultDown": Case(
        2,
        {f'up{{job="token-vault",{ONE}}}': "0x9"},
        {f'up{{job="token-vault",{ONE}}}': "0 1x9", f'up{{job="other",{ONE}}}': "0x9"},
        {**PAGE, **INSTANCE, "job": "token-vault"},
        "A process of the vault doesn't answer (vault-1:9464)",
    ),
    "RefreshesFail": Case(
        25,
        refreshes("0+8x60", "0+1x60"),
        refreshes("0+10x60", "0+1x60"),
        {**PAGE, **SLACK},
        "More than a tenth of the refreshes at slack fail",
    ),
    "GrantsDie": Case(
        65, dead("0x9 6x90"), dead("0x9 5x90"), {**PAGE, **SLACK}, "6 people have to connect slack again"
    ),
    "BreakerOpen": Case(
        6,
        {f'token_vault_breakers_open{{provider="slack",{ONE}}}': "1x9"},
        {f'token_vault_breakers_open{{provider="slack",{ONE}}}': "1x4 0x5"},
        {**TICKET, **SLACK},
        "No refreshes are sent to slack",
    ),
    "GrantsEndSoon": Case(
        31,
        {'token_vault_grants_ending{days="1"}': "2x40", 'token_vault_grants_ending{days="7"}': "9x40"},
        {'token_vault_grants_ending{days="1"}': "0x40", 'token_vault_grants_ending{days="7"}': "9x40"},
        TICKET,
        "2 grants end within a day",
    ),
    "ApprovalsWait": Case(
        16,
        {f"token_vault_approvals_waiting{{{ONE}}}": "21x20", "token_vault_approvals_waiting": "21x20"},
        {f"token_vault_approvals_waiting{{{ONE}}}": "20x20", "token_vault_approvals_waiting": "20x20"},
        TICKET,
        "21 approvals wait for their person",
    ),
    "StorageSlow": Case(
        20,
        statements("transaction", "0+90x30", "0+100x30", "0+100x30"),
        {
            **statements("transaction", "0+100x30", "0+100x30", "0+100x30"),
            **statements("bulk", "0x30", "0x30", "0+9x30"),
        },
        {**TICKET, "operation": "transaction"},
        "The slowest hundredth of transaction takes 950ms",
    ),
    "UpkeepFails": Case(
        31,
        {f"token_vault_upkeep_failing{{{ONE}}}": "1x40"},
        {f"token_vault_upkeep_failing{{{ONE}}}": "1x20 0 1x20"},
        {**TICKET, **INSTANCE},
        "An upkeep step fails on vault-1:9464",
    ),
    "ActivityNotSealed": Case(
        130,
        {"token_vault_activity_unsealed_seconds": "0x140"},
        {"token_vault_activity_unsealed_seconds": "600x140"},
        PAGE,
        "The activity has not been verified for two hours",
    ),
}


def rules() -> dict[str, Any]:
    loaded: Any = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return {rule["alert"]: rule for group in loaded["groups"] for rule in group["rules"]}


def evaluate(folder: Path, figures: Figures, **test: object) -> subprocess.CompletedProcess[str]:
    """Run `promtool test rules` with these figures."""
    promtool = shutil.which("promtool")
    if promtool is None:
        unavailable("the tests of the alert rules need: apt-get install prometheus")
    series = [{"series": name, "values": values} for name, values in figures.items()]
    made = {"rule_files": [str(RULES)], "tests": [{"interval": "1m", "input_series": series, **test}]}
    (path := folder / "tests.yml").write_text(json.dumps(made), encoding="utf-8")
    return subprocess.run([str(promtool), "test", "rules", str(path)], capture_output=True, text=True, check=False)


def expect_alerts(folder: Path, name: str, figures: Figures, minutes: int, *alerts: object) -> None:
    expected = {"eval_time": f"{minutes}m", "alertname": name, "exp_alerts": alerts}
    ran = evaluate(folder, figures, alert_rule_test=[expected])
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_at_its_limit_and_not_below(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    told = {"summary": case.summary, "description": rules()[name]["annotations"]["description"]}
    alert = {"exp_labels": dict(case.labels), "exp_annotations": told}
    expect_alerts(tmp_path, name, case.fires, case.minutes, alert)
    expect_alerts(tmp_path, name, case.is_quiet, case.minutes)


def test_every_alert_has_its_case() -> None:
    assert set(rules()) == set(CASES)


def test_grants_that_die_before_the_next_scrape_count_although_their_series_is_new(tmp_path: Path) -> None:
    alert = {
        "exp_labels": {**PAGE, **SLACK},
        "exp_annotations": {**rules()["GrantsDie"]["annotations"], "summary": "50 people have to connect slack again"},
    }
    expect_alerts(tmp_path, "GrantsDie", dead("_x9 50x90"), 15, alert)
    expect_alerts(tmp_path, "GrantsDie", dead("_x9 50x90"), 80)
    expect_alerts(tmp_path, "GrantsDie", dead("50x99 stale _x3 50x90"), 161)  # an hour after a scrape that failed


def panels() -> Mapping[str, list[str]]:
    """The expressions of the dashboard by the title of their panel."""
    loaded: Any = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return {one["title"]: [target["expr"] for target in one["targets"]] for one in loaded["panels"]}


def test_the_dashboard_and_the_rules_name_only_metrics_that_exist() -> None:
    expressions = [one for each in panels().values() for one in each] + [rule["expr"] for rule in rules().values()]
    named = {word for one in expressions for word in re.findall(r"\b(?:token_vault|process)_\w+", one)}
    existing = metrics_in_prometheus()
    histograms = {f"{name}_{part}" for name in existing if "_duration_" in name for part in ("bucket", "count", "sum")}
    assert named <= existing | histograms | OF_ANY_PROCESS


@pytest.mark.parametrize(("failed", "share"), [(None, 1), ("0+10x60", 0.9)])
def test_the_dashboard_shows_a_provider_whose_refreshes_never_failed(
    tmp_path: Path, failed: str | None, share: float
) -> None:
    (expression,) = panels()["Refreshes that succeed"]
    figures = {name: one for name, one in refreshes("0+90x60", failed or "").items() if one}
    sample = {"labels": '{provider="slack"}', "value": share}
    expected = {"expr": expression, "eval_time": "60m", "exp_samples": [sample]}
    ran = evaluate(tmp_path, figures, promql_expr_test=[expected])
    assert ran.returncode == 0, ran.stdout + ran.stderr
