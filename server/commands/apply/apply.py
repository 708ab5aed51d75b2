"""`apply FILE`: change people, groups, agents, APIs, providers, and rules to match a TOML file."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.terminal.context import Setup, complain, fail, note, say

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from server.administration.actor import Actor
    from server.administration.declaration import DeclarationFile
    from server.administration.declarations.declared_rules import RuleFileChange, RulePlan
    from server.administration.declarations.planned_changes import PlannedChange
    from server.administration.reconciliation import AppliedChange
    from server.policy.replay import ReplayReport

_PENDING = 2  # exit code of --plan
_FINISHED = "An interrupted change of the rules was finished."
_SIGNS = {"create": "+", "update": "~", "remove": "-"}


@dataclass(frozen=True, slots=True)
class _Result:
    """What is to change. `rules`: of a file with policies; `replay`: what they'd decide."""

    pending: tuple[PlannedChange, ...]
    rules: RulePlan | None
    replay: ReplayReport | None

    @property
    def rule_files(self) -> tuple[RuleFileChange, ...]:
        return () if self.rules is None else tuple(self.rules.changes)

    @property
    def is_unfinished(self) -> bool:
        """Whether an earlier change of the rules was interrupted."""
        return self.rules is not None and self.rules.is_unfinished


@dataclass(slots=True)
class _ApplyProgress:
    """What stays if a later change is refused. `rules`: the plan, once its files are written."""

    rules: list[RulePlan]
    changes: list[AppliedChange]

    @property
    def secrets(self) -> dict[int, str | None]:
        """The new links and secrets, by the identity of the planned change."""
        return {id(one.change): one.secret for one in self.changes}


def apply(
    setup: Setup,
    file: Annotated[
        Path,
        typer.Argument(
            help="TOML file with people, groups, agents, apis, providers, and policies.", show_default=False
        ),
    ],
    *,
    plan: Annotated[
        bool,
        typer.Option("--plan", "--dry-run", help="Show what would change. The exit code is 2 if anything would."),
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Also remove what the file's sections don't name.")] = False,
) -> None:
    """Create or change people, groups, agents, APIs, providers, and rules as a file says."""
    from server.administration.declaration import DeclarationRefused, read_declaration
    from server.policy.files import RulesRefused

    made = _ApplyProgress([], [])
    try:
        with _showing_what_stays(setup, made):
            wanted = read_declaration(file.expanduser())
            found = setup.run(_apply(setup, wanted, is_dry=plan, prunes=prune, made=made))
    except DeclarationRefused as refused:
        fail(str(refused))
    except RulesRefused as refused:
        for one in refused.problems:
            complain(one)
        note("Nothing was changed.")
        raise typer.Exit(1) from None
    secrets = made.secrets
    if setup.as_json:
        replay = {} if found.replay is None else {"replay": _replay_fields(found.replay)}
        rows = _rows(found.rule_files, found.pending, None if plan else secrets)
        setup.show_json({"applied": not plan, "changes": rows, **replay})
    else:
        _say_changes(found.rule_files, found.pending, secrets)
    if found.replay is not None:
        note(in_words(found.replay))
    count = len(found.rule_files) + len(found.pending)
    note("Nothing to change." if not count else f"{count} {'to make' if plan else 'made'}.")
    if found.is_unfinished:
        note(_FINISHED if not plan else "An interrupted change of the rules is unfinished: apply to finish it.")
    if any(secrets.values()):
        note("Links and secrets are shown only once.")
    if plan and (count or found.is_unfinished):
        raise typer.Exit(_PENDING)


@contextmanager
def _showing_what_stays(setup: Setup, made: _ApplyProgress) -> Generator[None]:
    """Show the changes that were made before one is refused: their secrets can't be shown again."""
    try:
        yield
    except BaseException:  # also an interruption
        files = [file for rules in made.rules for file in rules.changes]
        if any(rules.is_unfinished for rules in made.rules):
            note(_FINISHED)
        if not files and not made.changes:
            raise
        changes = [one.change for one in made.changes]
        if setup.as_json:
            setup.show_json({"applied": False, "changes": _rows(files, changes, made.secrets)})
        else:
            _say_changes(files, changes, made.secrets)
        note("The changes above were made and stay. The next one was refused: apply again once that is fixed.")
        raise


def _rows(
    files: Sequence[RuleFileChange], changes: Sequence[PlannedChange], secrets: Mapping[int, str | None] | None
) -> list[dict[str, object]]:
    """The rows of the JSON output. `secrets` is None for a plan."""
    rows = [(_rule_row(one), id(one)) for one in files] + [(_row(one), id(one)) for one in changes]
    return [row | ({} if secrets is None else {"secret": secrets.get(key)}) for row, key in rows]


def _say_changes(
    files: Sequence[RuleFileChange], changes: Sequence[PlannedChange], secrets: Mapping[int, str | None]
) -> None:
    for one in files:
        say("\n".join([f"{_SIGNS[one.verb]} policy {one.name}", *(f"    {line}" for line in one.diff)]))
    for one in changes:
        say("\n".join(_lines(one)))
        if secret := secrets.get(id(one)):
            say(f"    {'sign_in_link' if one.kind == 'person' else 'client_secret'}: {secret}")


async def _apply(
    setup: Setup,
    wanted: DeclarationFile,
    *,
    is_dry: bool,
    prunes: bool,
    made: _ApplyProgress,
) -> _Result:
    from server.administration import reconciliation
    from server.administration.actor import Actor
    from server.administration.declarations import declared_rules
    from server.remote import declared_imports, declared_servers

    rules = replay = first = None
    async with setup.open(uses_accounts=wanted.policies is None) as deployment:
        actor = Actor(deployment, None, "command_line")
        if wanted.policies is not None:
            settings = setup.settings().policy
            later = await declared_imports.tools_after(actor, wanted.imported_apis or {})
            rules = declared_rules.plan(actor, wanted.policies, settings, prunes=prunes, later=later)
            replay = await declared_rules.try_rules(actor, rules, settings) if rules.changes else None
            kept = declared_rules.rule_sets(rules, settings)
            actor = replace(actor, deployment=deployment.with_rules(kept))
            if rules.before is not None:
                first = replace(actor, deployment=deployment.with_rules([*kept, rules.before]))
        pending = await declared_servers.plan(actor, wanted, prunes=prunes, first=first)
        if is_dry:
            return _Result(pending, rules, replay)
        if rules is None:
            await reconciliation.apply(pending, tell=made.changes.append)
        else:
            await _apply_with_rules(actor, rules, pending, made=made)
        return _Result(pending, rules, replay)


async def _apply_with_rules(
    actor: Actor, rules: RulePlan, pending: Sequence[PlannedChange], *, made: _ApplyProgress
) -> None:
    """Write the rules first, but after the imports whose tools they name: a vault doesn't start with unknown ones.

    Removals come last, when no rule names the removed tools anymore.
    """
    from server.administration import reconciliation
    from server.administration.declaration import DeclarationRefused
    from server.administration.declarations import declared_rules
    from server.policy.files import RulesRefused

    first = [one for one in pending if rules.needs_imports and one.kind == "imported_api" and one.verb != "remove"]
    await reconciliation.apply(first, tell=made.changes.append)
    try:
        await declared_rules.apply(actor, rules, tell=made.rules.append)
    except (DeclarationRefused, RulesRefused) as refused:
        if not first:
            raise
        names = ", ".join(one.name for one in first)
        raise DeclarationRefused(f"{refused}. Already changed: imported_apis ({names})") from refused
    await reconciliation.apply([one for one in pending if one not in first], tell=made.changes.append)


def _rule_row(one: RuleFileChange) -> dict[str, object]:
    texts = {
        "before": None if one.verb == "create" else one.before,
        "after": None if one.verb == "remove" else one.after,
    }
    return {"change": one.verb, "kind": "policy", "name": one.name, "differences": {"rules": texts}}


def _replay_fields(report: ReplayReport) -> dict[str, object]:
    from server.administration.declarations.declared_rules import DAYS

    uses = report.uses
    counts = {"forbid": uses["forbid"], "ask": uses["ask"], "could_not_be_judged": uses["open"]}
    return {"days": DAYS, "events": report.events, "uses": sum(uses.values()), **counts}


def in_words(report: ReplayReport) -> str:
    """What the rules would have decided."""
    from server.administration.declarations.declared_rules import DAYS, EVENTS

    uses = report.uses
    span = f"the last {DAYS} days" if report.events < EVENTS else f"the last {EVENTS:,} events"
    return (
        f"Of {sum(uses.values())} uses of accounts in {span}, these rules would have forbidden "
        f"{uses['forbid']} and asked about {uses['ask']}; {uses['open']} can't be judged. "
        "More, once they are applied: token-vault policy replay"
    )


def _row(one: PlannedChange) -> dict[str, object]:
    differences = {found.name: {"before": found.before, "after": found.after} for found in one.differences}
    return {"change": one.verb, "kind": one.kind, "name": one.name, "differences": differences}


def _lines(one: PlannedChange) -> list[str]:
    lines = [f"{_SIGNS[one.verb]} {one.kind} {one.name}"]
    for found in one.differences:
        if one.verb == "create" and not found.after:
            continue  # the default, if not given
        before, after = (json.dumps(value, ensure_ascii=False, default=str) for value in (found.before, found.after))
        lines.append(f"    {found.name}: {after}" if one.verb == "create" else f"    {found.name}: {before} -> {after}")
    return lines
