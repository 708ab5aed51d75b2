"""`policy ...`: write, test, and try the operator's rules before turning them on."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from server.terminal.completion import complete_users
from server.terminal.context import Setup, command, fail, missing_vault, note, say, say_with_label

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping
    from zoneinfo import ZoneInfo

    from server.admin_settings import AdminSettings
    from server.live_providers import ProviderSet
    from server.policy.cases import CasePlace, CaseResult, PolicyCase
    from server.policy.replay import ReplayReport
    from server.policy.rules import RuleSet
    from server.policy.schema import Action
    from vault.storage.database import Database

app = typer.Typer(no_args_is_help=True, help="Your own rules about what agents may do.")

FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--folder", help="Folder with the rules. Default: policy.shadow_folder, or policy.folder.", show_default=False
    ),
]
_SPAN: Final = re.compile(r"(\d{1,5})([dhm])")
_SECONDS: Final = {"d": 86400, "h": 3600, "m": 60}
_SHOWN: Final = 12  # characters of a digest


@dataclass(frozen=True, slots=True)
class _Place:
    """The context for loading rules: the tools and providers, and the vault, if there is one."""

    folder: Path
    zone: ZoneInfo
    admin: AdminSettings
    providers: ProviderSet
    actions: Mapping[str, Action]
    database: Database | None

    def load(self) -> RuleSet:
        from server.policy.gate import load

        return load(self.folder, self.actions, setting=str(self.folder))

    def cases(self) -> CasePlace:
        from server.policy.cases import CasePlace

        return CasePlace(self.providers, self.zone)


@app.callback()
def policy_() -> None:
    """Your own rules about what agents may do."""


@command(app, "check")
def check(setup: Setup, *, folder: FolderOption = None) -> None:
    """Check the rules against the tools and print problems."""
    setup.run(_check(setup, folder))


@command(app, "schema")
def schema(setup: Setup) -> None:
    """Print the Cedar schema for rules."""
    from server.policy.schema import schema_text

    async def read() -> str:
        async with _place(setup, Path()) as place:
            return schema_text(place.actions)

    text = setup.run(read())
    if setup.as_json:
        setup.show_json({"schema": text})
    else:
        say(text.rstrip())


@command(app, "test")
def test(setup: Setup, *, folder: FolderOption = None) -> None:
    """Run the test cases (`*.toml`) in the folder of the rules."""
    results = setup.run(_test(setup, folder))
    wrong = [one for one in results if not one.is_right]
    if setup.as_json:
        setup.show_json([_case_fields(one) for one in results])
    else:
        for one in wrong:
            expected = one.case.expect + (f" by {one.case.rule}" if one.case.rule else "")
            said = one.verdict.outcome.value + (f" by {one.verdict.rule}" if one.verdict.rule else "")
            say(f"{one.place}: {one.case.name}: expected {expected}, got {said}")
        say(f"{len(results) - len(wrong)} of {len(results)} cases passed.")
    if wrong or not results:
        raise typer.Exit(1)


@command(app, "explain")
def explain(
    setup: Setup,
    call: Annotated[str, typer.Argument(help="A tool, or exchange, proxy, or request.", show_default=False)],
    *,
    case: Annotated[
        str,
        typer.Option("--case", help="The use, as JSON with the fields of a test case: arguments, user, agent, at, ..."),
    ] = "{}",
    user: Annotated[
        str | None,
        typer.Option("--user", help="A person of this vault, with their groups.", autocompletion=complete_users),
    ] = None,
    folder: FolderOption = None,
) -> None:
    """Show what the rules decide about one call, and which of them can apply to it."""
    found = setup.run(_explain(setup, call, case=case, user=user, folder=folder))
    if setup.as_json:
        setup.show_json(found)
        return
    for name, value in found.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- made below
        say_with_label(f"{name:10}", shown)


@command(app, "replay")
def replay(
    setup: Setup,
    *,
    since: Annotated[str, typer.Option("--since", help="How far back, such as 90d, 12h, or 30m.")] = "90d",
    folder: FolderOption = None,
    show: Annotated[int, typer.Option("--show", min=0, max=1000, help="How many affected uses to print.")] = 20,
) -> None:
    """Replay the recorded activity: what the rules would have refused or asked about."""
    span = _SPAN.fullmatch(since)
    if span is None:
        fail(f"--since {since}: use a number with d, h, or m, such as 90d")
    setup.run(_replay(setup, folder, seconds=int(span[1]) * _SECONDS[span[2]], show=show))


@asynccontextmanager
async def _place(setup: Setup, folder: Path) -> AsyncGenerator[_Place]:
    """Open the vault, if there is one, without the active rules, which may be the ones to correct."""
    from zoneinfo import ZoneInfo

    from server.app import open_deployment, providers_of_settings
    from server.policy.schema import actions_of
    from server.policy_settings import PolicySettings

    settings = setup.settings()
    zone = ZoneInfo(settings.policy.time_zone)
    bare = settings.model_copy(update={"policy": PolicySettings()})
    if missing_vault(settings, data=setup.directory()) is not None:
        providers = await providers_of_settings(bare, data=setup.directory())
        yield _Place(folder, zone, settings.admin, providers, actions_of([*providers.tools, *providers.away]), None)
        return
    async with open_deployment(bare, data=setup.directory(), creates=False) as deployment:
        providers = deployment.live.current
        yield _Place(
            folder,
            zone,
            settings.admin,
            providers,
            actions_of([*providers.tools, *providers.away]),
            deployment.database,
        )


def _folder(setup: Setup, folder: Path | None) -> Path:
    settings = setup.settings().policy
    found = folder or settings.shadow_folder or settings.folder
    if found is None:
        fail("no folder with rules: set policy.folder, or pass --folder")
    if folder is not None and not folder.expanduser().is_dir():
        fail(f"--folder: there is no folder {folder}")
    return found.expanduser()


async def _check(setup: Setup, folder: Path | None) -> None:
    from server.policy.checks import doubts, strangers, unknown_providers
    from server.policy.files import RulesRefused

    async with _place(setup, _folder(setup, folder)) as place:
        try:
            rules = place.load()
        except RulesRefused as refused:
            if setup.as_json:
                setup.show_json({"folder": str(place.folder), "problems": list(refused.problems), "doubts": []})
            for one in () if setup.as_json else refused.problems:
                say(one)
            raise typer.Exit(1) from None
        found = doubts(rules) + unknown_providers(rules, place.providers.catalog)
        if place.database is not None:
            found += await strangers(rules, place.database)
    if setup.as_json:
        setup.show_json(
            {
                "folder": str(place.folder),
                "rules": len(rules.rules),
                "digest": rules.digest,
                "problems": [],
                "doubts": found,
            }
        )
        return
    for one in found:
        say(f"doubtful: {one}")
    say(f"The rules match the tools: {len(rules.rules)} (digest {rules.digest[:_SHOWN]}).")


async def _test(setup: Setup, folder: Path | None) -> list[CaseResult]:
    from server.policy.cases import case_files, run_cases

    async with _place(setup, _folder(setup, folder)) as place:
        files = case_files(place.folder)
        if not files:
            fail(f"no test cases in {place.folder}: write them in a .toml file there")
        return run_cases(files, place.load(), place.cases())


def _case_fields(one: CaseResult) -> dict[str, object]:
    return {
        "file": one.place,
        "name": one.case.name,
        "passed": one.is_right,
        "expected": one.case.expect,
        "outcome": one.verdict.outcome.value,
        "rule": one.verdict.rule or None,
        "reason": one.verdict.reason or None,
    }


async def _explain(setup: Setup, call: str, *, case: str, user: str | None, folder: Path | None) -> dict[str, object]:
    wanted = _case(call, case)
    async with _place(setup, _folder(setup, folder)) as place:
        rules = place.load()
        person_id: str | None = None
        if user is not None:
            wanted, person_id = await _with_person(place, wanted, user)
        cases = place.cases()
        try:
            facts = cases.facts_of(wanted, rules.actions)
        except ValueError as error:
            fail(f"--case: {error}" if call in rules.actions else str(error))
    if person_id is not None:
        facts = replace(facts, person=replace(facts.person, id=person_id))
    verdict = cases.decide(rules, facts)
    met = [f"{one.name} ({one.place})" for one in cases.rules_met(rules, facts)]
    return {
        "outcome": verdict.outcome.value,
        "rule": verdict.rule or "none",
        "reason": verdict.reason or "none",
        "meets": met or "no rule",
        "digest": rules.digest,
    }


def _case(call: str, written: str) -> PolicyCase:
    from pydantic import ValidationError

    from providers.definitions.suggestions import what_is_wrong
    from server.policy.cases import PolicyCase

    try:
        content: object = json.loads(written)
    except ValueError as error:
        fail(f"--case: {error}")
    if not isinstance(content, dict):
        fail("--case: write a JSON object")
    try:
        return PolicyCase.model_validate({**content, "call": call})
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"--case: {'.'.join(map(str, first['loc']))}: {what_is_wrong(PolicyCase, first)}")


async def _with_person(place: _Place, case: PolicyCase, user: str) -> tuple[PolicyCase, str]:
    """The case with what the vault knows of the person, and their ID."""
    from server.terminal.names import user_called
    from vault import groups

    if place.database is None:
        fail("--user needs a vault: name the person in --case")
    found = await user_called(place.database, user)
    within = await groups.names_of_person(place.database, found.id, now=place.database.now())
    role = place.admin.highest_role(found.role, within)
    known = {"user": found.name, "role": role.value, "groups": tuple(sorted(within))}
    return case.model_copy(update=known), found.id


async def _replay(setup: Setup, folder: Path | None, *, seconds: int, show: int) -> None:
    from server.event_texts import when
    from server.policy.replay import Replay, ReplayReport

    report = ReplayReport()
    affected: list[dict[str, object]] = []
    async with _place(setup, _folder(setup, folder)) as place:
        if place.database is None:
            fail("there is no activity here: correct --data")
        rules = place.load()
        uses = Replay(rules, place.providers.policies, place.zone, place.admin).run(
            place.database, since=place.database.now() - seconds, report=report
        )
        async for one in uses:
            if one.outcome in {"forbid", "ask"} and len(affected) < show:
                affected.append(
                    {
                        "event": one.event.sequence,
                        "at": when(one.event.at),
                        "call": one.action,
                        "outcome": one.outcome,
                        "rule": one.rule,
                    }
                )
    if setup.as_json:
        setup.show_json({"digest": rules.digest, **_report_fields(report), "affected": affected})
        return
    for row in affected:
        say(f"event {row['event']}, {row['at']}: {row['call']}: {row['outcome']} by {row['rule']}")
    for line in _sentences(report, rules):
        say(line)
    if affected:
        note("To see an event: token-vault activity")


def _report_fields(report: ReplayReport) -> dict[str, object]:
    return {
        "events": report.events,
        "uses": sum(report.uses.values()),
        "forbid": report.uses["forbid"],
        "ask": report.uses["ask"],
        "allow": report.uses["allow"],
        "could_not_be_judged": report.uses["open"],
        "not_judged_because": dict(report.open_for),
        "by_rule": [
            {"rule": rule, "outcome": outcome, "uses": count} for (rule, outcome), count in report.by_rule.most_common()
        ],
        "by_call": [
            {"call": call, "outcome": outcome, "uses": count} for (call, outcome), count in report.by_call.most_common()
        ],
        "refused_then": report.refused_then,
    }


def _sentences(report: ReplayReport, rules: RuleSet) -> list[str]:
    uses = report.uses
    counts = (
        f"{uses['forbid']} forbidden, {uses['ask']} asked about, {uses['allow']} allowed, {uses['open']} couldn't be "
        "judged."
    )
    against = f"Rules with digest {rules.digest[:_SHOWN]} against {sum(uses.values())} uses of accounts"
    lines = [f"{against}: {counts}"]
    lines += [f"  {count} {outcome} by {rule}" for (rule, outcome), count in report.by_rule.most_common() if rule]
    lines += [f"  {count} couldn't be judged: {why}" for why, count in report.open_for.most_common()]
    if report.refused_then:
        lines.append(f"{report.refused_then} more were refused at the time, and are not counted.")
    return lines
