"""Folders with an operator's rules, loaded for the tools of a vault with default settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from zoneinfo import ZoneInfo

from server.app import providers_of_settings
from server.policy.cases import CasePlace, PolicyCase
from server.policy.facts import CallFacts
from server.policy.gate import PolicyGate, load
from server.policy.rules import RuleSet
from server.policy.schema import actions_of
from server.settings import load_settings
from vault.refresh.policy_checks import PolicyVerdict

MAIL: dict[str, object] = {"subject": "Hello", "text": "A mail", "to": ["ann@example.com"]}


@dataclass
class Rules:
    """Writes rules into a folder and evaluates them."""

    folder: Path
    place: CasePlace

    def write(self, *rules: str, name: str = "rules.cedar") -> Path:
        """The folder, with exactly these rules in this file."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_text("\n".join(rules), encoding="utf-8")
        return self.folder

    def load(self, *rules: str) -> RuleSet:
        return load(self.write(*rules), actions_of(self.place.providers.tools), setting="policy.folder")

    def facts(self, rules: RuleSet, call: str, **facts: object) -> CallFacts:
        return self.place.facts_of(PolicyCase.model_validate({"call": call, **facts}), rules.actions)

    def judge(self, rules: RuleSet, call: str, **facts: object) -> PolicyVerdict:
        return self.place.judge(rules, PolicyCase.model_validate({"call": call, **facts}))

    def outcome(self, rules: RuleSet, call: str, **facts: object) -> str:
        return self.judge(rules, call, **facts).outcome.value


async def rules_in(folder: Path, *, zone: str = "UTC", overrides: Mapping[str, object] = {}) -> Rules:
    """Load them with the tools and providers of these settings, by default the default settings."""
    found = await providers_of_settings(load_settings(overrides=overrides), data=folder)
    return Rules(folder / "rules", CasePlace(found, ZoneInfo(zone)))


def put(file: Path, text: str) -> None:
    """Replace a rules file atomically."""
    made = file.with_suffix(".new")
    made.write_text(text, encoding="utf-8")
    made.replace(file)


async def look_twice(gate: PolicyGate) -> None:
    """Put changed files into effect, as the upkeep of a running vault does."""
    for _ in range(2):
        await gate.refresh()


def with_arguments(facts: CallFacts, **arguments: object) -> CallFacts:
    """The same call with arguments that no tool would accept."""
    return replace(facts, arguments=lambda: {**facts.values, **arguments})
