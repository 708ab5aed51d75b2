"""The runbook of docs/operate/metrics.md: what each alert of alerts.yml says to do."""

from __future__ import annotations

from typing import Any

import yaml

from tests.generating.documentation import DOCS


def runbook() -> str:
    """One section per alert."""
    rules: Any = yaml.safe_load((DOCS / "operate/monitoring/alerts.yml").read_text(encoding="utf-8"))
    found = [rule for group in rules["groups"] for rule in group["rules"]]
    return "\n".join(f"### {rule['alert']}\n\n{rule['annotations']['description']}\n" for rule in found)
