"""The only place that applies the operator's policy: every use of an account passes it, at every interface.

First the rules of this process, then the decision point elsewhere. Rules in the shadow folder are also evaluated:
a different decision is counted and recorded, without any effect. Changed files apply after two checks in a row find the
same state. Unusable rules leave the current ones in force; unusable shadow rules turn the shadow off.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from providers.tools.spec import ToolSpec
from server.admin_settings import AdminSettings
from server.live_providers import LiveProviders
from server.policy.facts import AgentFacts, CallFacts, PersonFacts
from server.policy.files import Fingerprint, RuleFiles, RulesRefused, fingerprint, read_rules
from server.policy.schema import EXCHANGE, PROXY, REQUEST, Action, actions_of
from server.policy_settings import PolicySettings
from server.provider_settings import SettingsRefused
from vault.approvals.approvals import RELEASE
from vault.audit.audit import Activity
from vault.exchange.acting_names import read_names
from vault.records import Event
from vault.refresh.policy_checks import PolicyCheck, PolicyOutcome, PolicyQuestion, PolicyVerdict
from vault.refusals import TemporarilyUnavailable
from vault.storage.database import Reader

if TYPE_CHECKING:
    from server.policy.rules import RuleSet

LOOK_EVERY: Final = 2.0  # seconds between checks for changed files
FOLDER: Final = "policy.folder"
SHADOW: Final = "policy.shadow_folder"
logger = logging.getLogger("token_vault.policy")


Fingerprints = tuple[Fingerprint | None, ...]


@dataclass(frozen=True, slots=True)
class _Look:
    """The state that rules depend on, at one check."""

    tools: Sequence[ToolSpec]
    away: Sequence[ToolSpec]
    files: Fingerprints


class PolicyGate:
    """The policy of one process (`PolicyCheck`). Raises RulesRefused if the rules can't be used."""

    def __init__(
        self,
        settings: PolicySettings,
        live: LiveProviders,
        activity: Activity,
        *,
        admin: AdminSettings,
        point: PolicyCheck | None = None,
    ) -> None:
        self._settings = settings
        self._admin = admin
        self._live = live
        self._activity = activity
        self._point = point
        self._zone = ZoneInfo(settings.time_zone)
        self._seen: _Look | None = None
        self._files: Fingerprints = ()  # of the last check
        self._told: object = None
        self._is_announced = False
        self.actions: Mapping[str, Action] = {}
        self.rules: RuleSet | None = None
        self.shadow: RuleSet | None = None
        # why there is no shadow; it decides nothing, so the rest continues
        self.shadow_problem: RulesRefused | None = None
        self.disagreements: Counter[tuple[str, str]] = Counter()  # by actual decision and shadow decision
        if settings.has_rules:
            look = self._look()
            self._use(look)
            self._files = look.files

    @property
    def digest(self) -> str | None:
        """Identifies the rules in force; None without rules."""
        return None if self.rules is None else self.rules.digest

    async def __call__(self, question: PolicyQuestion, reader: Reader, /, *, now: int) -> PolicyVerdict:
        """The verdict of the rules and the decision point. Raises TemporarilyUnavailable."""
        verdict = PolicyVerdict()
        rules, shadow = self.rules, self.shadow
        if rules is not None:
            verdict = await self._judge(rules, question, reader, now=now)
        if shadow is not None and not question.is_trial:
            with suppress(TemporarilyUnavailable):  # it decides nothing
                self._compare(verdict, await self._judge(shadow, question, reader, now=now), question)
        if verdict.outcome is PolicyOutcome.FORBID or self._point is None:
            return verdict
        answer = await self._point(question, reader, now=now)
        return answer if answer.outcome is PolicyOutcome.FORBID else replace(verdict, has_waited=True)

    async def refresh(self) -> None:
        """Use changed files, and record which rules this process uses. Raises TemporarilyUnavailable for unusable
        files."""
        if not self._settings.has_rules:
            return
        look = await asyncio.to_thread(self._look)
        is_still, self._files = look.files == self._files, look.files
        if look != self._seen and is_still:  # others may still be written
            try:
                await asyncio.to_thread(self._use, look)
            except RulesRefused as refused:
                raise self._told_of(refused, look, "changed rules can't be used; the earlier ones stay") from None
            self._is_announced = False
        if not self._is_announced:
            self._is_announced = True
            details: dict[str, object] = {}
            for name, rules in (("policy", self.rules), ("shadow", self.shadow)):
                if rules is not None:
                    details |= {name: rules.digest, f"{name}_rules": len(rules.rules)}
            await self._activity.record(Event("policy.loaded", details=details))
        if self.shadow_problem is not None and look == self._seen:
            raise self._told_of(self.shadow_problem, look, "the shadow rules can't be used; there are none")

    def _told_of(self, refused: RulesRefused, look: _Look, what: str) -> TemporarilyUnavailable:
        if look != self._told:
            self._told = look
            logger.error(what, extra={"problem": str(refused)})
        return TemporarilyUnavailable(str(refused), retry_after=round(LOOK_EVERY), detail=str(refused))

    def _look(self) -> _Look:
        folders = (self._settings.folder, self._settings.shadow_folder)
        current = self._live.current
        return _Look(
            current.tools,
            current.away,
            tuple(None if one is None else fingerprint(one.expanduser()) for one in folders),
        )

    def _use(self, look: _Look) -> None:
        """Load the rules in the state of that check. Raises RulesRefused without changing anything."""
        actions = actions_of([*look.tools, *look.away])
        rules, shadow, problem = self._load(self._settings.folder, actions, setting=FOLDER), None, None
        try:
            shadow = self._load(self._settings.shadow_folder, actions, setting=SHADOW)
        except RulesRefused as refused:
            problem = refused
        if self._look().files != look.files:
            raise RulesRefused(FOLDER, ["a file changed while the rules were read: write it elsewhere, then rename it"])
        self.actions, self.rules, self.shadow, self.shadow_problem = actions, rules, shadow, problem
        self._seen = look

    def _load(self, folder: Path | None, actions: Mapping[str, Action], *, setting: str) -> RuleSet | None:
        return None if folder is None else load(folder.expanduser(), actions, setting=setting)

    async def _judge(self, rules: RuleSet, question: PolicyQuestion, reader: Reader, *, now: int) -> PolicyVerdict:
        from server.policy.decisions import Decider

        action = action_of(question, rules.actions)
        policy = self._live.policies.get(question.provider)
        decider = Decider(rules, action, question.provider, question.client_id, question.scopes, policy)
        facts = self._facts(question, action, now=now)
        return decider.decide(await with_names(facts, reader, admin=self._admin) if decider.needs_names else facts)

    def _facts(self, question: PolicyQuestion, action: Action, *, now: int) -> CallFacts:
        return CallFacts(
            action,
            PersonFacts(question.user_id, key=question.user_id),
            AgentFacts(question.client_id),
            account_id=question.connection_id,
            provider=question.provider,
            account=question.label,
            scopes=question.scopes,
            actors=question.actors,
            now=now,
            zone=self._zone,
            arguments=None if question.call is None or not action.is_tool else question.call.arguments,
            wire=question.wire,
            address=question.address,
            signed_in_at=question.signed_in_at,
            is_strong=question.is_strong,
        )

    def _compare(self, decided: PolicyVerdict, shadow: PolicyVerdict, question: PolicyQuestion) -> None:
        """Count a call that the shadow rules would have decided differently."""
        if decided.outcome is shadow.outcome:
            return
        self.disagreements[decided.outcome.value, shadow.outcome.value] += 1
        details = {
            "provider": question.provider,
            "purpose": question.purpose,
            "decided": decided.outcome.value,
            "would": shadow.outcome.value,
            "rule": shadow.rule or decided.rule,
            "shadow": shadow.digest,
        }
        self._activity.note_refusal(
            Event(
                "policy.disagreed",
                user_id=question.user_id,
                client_id=question.client_id,
                connection_id=question.connection_id,
                details=details,
            )
        )


def load(folder: Path, actions: Mapping[str, Action], *, setting: str) -> RuleSet:
    """The rules of a folder. Raises RulesRefused, and SettingsRefused if the package for Cedar is missing."""
    return check(read_rules(folder, setting=setting), actions, setting=setting)


def check(files: RuleFiles, actions: Mapping[str, Action], *, setting: str) -> RuleSet:
    """The rules in these files. Raises as `load`."""
    try:
        from server.policy.rules import checked_rules
    except ImportError as error:
        raise SettingsRefused(
            f"{setting}: rules need a package that is not installed: pip install 'mcp-token-vault[policy]'"
        ) from error
    return checked_rules(files, actions, setting=setting)


def action_of(question: PolicyQuestion, actions: Mapping[str, Action]) -> Action:
    """The action: the tool, or the kind of use without one. Raises TemporarilyUnavailable for a tool that isn't known
    yet."""
    call = question.call
    if call is None or call.tool == RELEASE:
        return actions[question.purpose if question.purpose in {PROXY, REQUEST} else EXCHANGE]
    tool = actions.get(call.tool)
    if tool is None or not tool.is_tool:
        detail = f"the rules are not checked against {call.tool} yet"
        text = "This vault's rules don't know this tool yet. Nothing was done."
        raise TemporarilyUnavailable(text, retry_after=round(LOOK_EVERY), detail=detail)
    return tool


async def with_names(facts: CallFacts, reader: Reader, *, admin: AdminSettings) -> CallFacts:
    """The same call with the current names of person, groups, and agent, and the person's current role."""
    found = await read_names(reader, user_id=facts.person.id, client_id=facts.agent.id, now=facts.now)
    if found is None:
        return facts
    role = admin.highest_role(found.role, found.groups)
    person = PersonFacts(facts.person.id, found.user, found.user_key, role.value, found.groups)
    return replace(facts, person=person, agent=AgentFacts(facts.agent.id, found.client, found.client_kind))
