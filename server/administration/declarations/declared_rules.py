"""The rule files of a declaration: all are checked with the other files of the folder, then written together.

Only the command applies them: they are files on the vault's host, like the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from providers.definitions.file_errors import reason_of
from providers.tools.spec import ToolSpec
from server.administration.actor import Actor
from server.administration.declaration import DeclarationRefused, DeclaredPolicy
from server.administration.declarations.planned_changes import Verb
from server.policy import rule_folder
from server.policy.files import SUFFIX, UNFINISHED, RulesRefused, rules_of
from server.policy.gate import SHADOW, check, load
from server.policy.rule_folder import FolderChanged, FolderState
from server.policy.schema import Action, actions_of
from server.policy_settings import PolicySettings
from vault.audit import audit
from vault.records import DAY

if TYPE_CHECKING:
    from server.policy.replay import ReplayReport
    from server.policy.rules import RuleSet

SETTING: Final = "policies"
DAYS: Final = 7  # of activity that new rules are tried on
EVENTS: Final = 10_000  # the most of them, which takes about a second


@dataclass(frozen=True, slots=True)
class RuleFileChange:
    """One rule file to write or remove, with its text before and after."""

    verb: Verb
    name: str
    before: str = field(repr=False)
    after: str = field(repr=False)

    @property
    def diff(self) -> list[str]:
        """The unified diff without the names of the files."""
        lines = unified_diff(self.before.splitlines(), self.after.splitlines(), lineterm="")
        return list(lines)[2:]


@dataclass(frozen=True, slots=True)
class RulePlan:
    """What to write, and all rules of the folder afterwards. `is_unfinished`: an earlier change was interrupted.

    `needs_imports`: the rules name tools of imported APIs that the same declaration turns on, which must come first.
    `before` are the rules in force until then, whose tools these imports must keep.
    """

    folder: Path
    changes: Sequence[RuleFileChange]
    rules: RuleSet = field(repr=False)
    state: FolderState = field(repr=False)
    is_unfinished: bool
    needs_imports: bool = False
    before: RuleSet | None = field(default=None, repr=False)


def plan(
    actor: Actor,
    wanted: Mapping[str, DeclaredPolicy],
    settings: PolicySettings,
    *,
    prunes: bool,
    later: Sequence[ToolSpec] | None = None,
) -> RulePlan:
    """The files to change. Raises DeclarationRefused, RulesRefused, and SettingsRefused, with nothing changed.

    `later`: the tools that rules can name after the declaration's other changes, if these are different ones.
    """
    if settings.folder is None:
        raise DeclarationRefused(f"{SETTING}: there is no folder for rules: set policy.folder")
    folder = settings.folder.expanduser()
    try:
        state = rule_folder.read_state(folder, setting=SETTING)
        is_unfinished = (folder / UNFINISHED).exists()
    except OSError as error:
        raise DeclarationRefused(f"{SETTING}: can't read {error.filename}: {reason_of(error)}") from error
    texts = {f"{name}{SUFFIX}": (one.rules or "").encode() for name, one in wanted.items()}
    removed = _files_to_remove(state, texts) if prunes else []
    after = {name: text for name, text in {**state.contents, **texts}.items() if name not in removed}
    current = actor.deployment.live.current
    actions = actions_of([*current.tools, *current.away])
    try:
        known = actions if later is None else actions_of(later)
        rules = check(rules_of(after, setting=SETTING), known, setting=SETTING)
    except RulesRefused as refused:
        raise RulesRefused(SETTING, [_with_source(one, wanted, folder) for one in refused.problems]) from None
    changes = [
        *_files_to_write(state.contents, texts),
        *(_change("remove", name, state.contents[name], b"") for name in removed),
    ]
    if linked := next((folder / one.name for one in changes if (folder / one.name).is_symlink()), None):
        raise DeclarationRefused(
            f"{SETTING}: {linked} is a symbolic link, so its target is managed elsewhere: change it there, or remove "
            "the link"
        )
    needs_imports = later is not None and _usable(after, actions) is None
    before = _usable(state.contents, actions) if needs_imports else None
    return RulePlan(folder, changes, rules, state, is_unfinished, needs_imports, before)


def _usable(contents: Mapping[str, bytes], actions: Mapping[str, Action]) -> RuleSet | None:
    try:
        return check(rules_of(contents, setting=SETTING), actions, setting=SETTING)
    except RulesRefused:
        return None


async def apply(actor: Actor, planned: RulePlan, *, tell: Callable[[RulePlan], None] = lambda _: None) -> None:
    """Write the files together, and finish an interrupted change first. Raises DeclarationRefused.

    RulesRefused means that nothing was changed. `tell` gets the plan once the files are written.
    """
    if not planned.changes and not planned.is_unfinished:
        return
    folder = planned.folder
    texts = {one.name: one.after.encode() for one in planned.changes if one.verb != "remove"}
    removed = [one.name for one in planned.changes if one.verb == "remove"]
    try:
        with rule_folder.hold(folder):
            was_finished = rule_folder.finish(folder, setting=SETTING)
            if planned.changes:
                _write(planned, texts, removed, was_finished=was_finished)
    except FolderChanged:
        raise DeclarationRefused(f"{SETTING}: the files in {folder} are being changed: run this again") from None
    except OSError as error:
        raise DeclarationRefused(f"{SETTING}: can't write {error.filename or folder}: {reason_of(error)}") from error
    tell(planned)
    now = actor.deployment.now()
    async with actor.change() as transaction:
        names = sorted(one.name for one in planned.changes)
        event = actor.event("policy.applied", files=names, policy=planned.rules.digest)
        await audit.append(transaction, event, now=now)


def _write(planned: RulePlan, texts: Mapping[str, bytes], removed: Sequence[str], *, was_finished: bool) -> None:
    try:
        rule_folder.write(planned.folder, planned.state, texts, removed, setting=SETTING)
    except RulesRefused as refused:
        if not was_finished:
            raise
        raise DeclarationRefused(f"{refused}; only an interrupted change of the rules was finished") from refused


async def try_rules(actor: Actor, planned: RulePlan, settings: PolicySettings) -> ReplayReport:
    """What the rules would have decided about the last days, or about the last events if there were many."""
    from server.policy.replay import Replay, ReplayReport

    deployment, report = actor.deployment, ReplayReport()
    replay = Replay(planned.rules, deployment.live.policies, ZoneInfo(settings.time_zone), deployment.settings.admin)
    since = deployment.now() - DAYS * DAY
    async for _ in replay.run(deployment.database, since=since, report=report, most=EVENTS):
        pass
    return report


def rule_sets(planned: RulePlan, settings: PolicySettings) -> Sequence[RuleSet]:
    """All rules whose tools must stay once the planned ones are written: these, and the usable ones on trial."""
    found = [planned.rules]
    if settings.shadow_folder is not None:
        with suppress(RulesRefused):
            found.append(load(settings.shadow_folder.expanduser(), planned.rules.actions, setting=SHADOW))
    return found


def _files_to_write(before: Mapping[str, bytes], texts: Mapping[str, bytes]) -> Iterator[RuleFileChange]:
    for name, text in texts.items():
        if before.get(name) != text:
            yield _change("update" if name in before else "create", name, before.get(name, b""), text)


def _change(verb: Verb, name: str, before: bytes, after: bytes) -> RuleFileChange:
    return RuleFileChange(verb, name, before.decode(errors="replace"), after.decode())


def _files_to_remove(state: FolderState, texts: Mapping[str, bytes]) -> list[str]:
    """The files that an earlier declaration wrote and this one doesn't name. Raises DeclarationRefused."""
    found = sorted(name for name in state.written if name in state.contents and name not in texts)
    for name in found:
        if rule_folder.digest_of(state.contents[name]) != state.written[name]:
            raise DeclarationRefused(
                f"{SETTING}: {name} was edited after it was applied: remove it yourself, or name it in the file"
            )
    return found


def _with_source(problem: str, wanted: Mapping[str, DeclaredPolicy], folder: Path) -> str:
    """A problem with the place in the file that the declaration names, instead of in the folder."""
    name, found, rest = problem.partition(f"{SUFFIX}:")
    declared = wanted.get(name)
    if declared is None or not found:
        return f"{folder}/{problem}" if found else problem
    source = f"{SETTING}.{name}.rules" if declared.rules_file is None else str(declared.rules_file)
    return f"{source}:{rest}"
