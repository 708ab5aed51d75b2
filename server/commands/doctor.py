"""`doctor`: check an installation for known problems, and print fixes. Records no events and opens no tokens."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from server.terminal.context import Setup, missing_vault, say_with_label

if TYPE_CHECKING:
    from server.deployment import Deployment
    from server.doctor.findings import Finding
    from server.settings import Settings


def doctor(setup: Setup) -> None:
    """Check the installation and print a fix for each problem.

    The exit code is 1 if there is a problem; notes don't affect it.
    """
    from server.doctor.findings import Verdict

    findings = setup.run(_examine(setup))
    _report(setup, findings)
    if any(one.verdict is Verdict.PROBLEM for one in findings):
        raise typer.Exit(1)


async def _examine(setup: Setup) -> list[Finding]:
    """Run all checks that can run; something that can't be read or opened is itself a finding."""
    from server.doctor.files import check_files
    from server.doctor.findings import correct_setting, note, ok, problem
    from server.settings import SettingsRefused

    try:
        settings = setup.settings()
    except SettingsRefused as refused:
        return [problem("settings", str(refused), fix=correct_setting(refused))]
    data, config = setup.directory(), setup.config
    if config is None and (data / "config.toml").is_file():
        config = data / "config.toml"
    where = f"using defaults and the environment; there is no settings file at {data / 'config.toml'}"
    findings = [ok("settings", where if config is None else str(config))]
    findings += check_files(settings, data=data, config=config, environment=os.environ)
    if any(one.check == "key" and one.verdict == "problem" for one in findings):
        return findings
    if missing_vault(settings, data=data) is not None:
        fix = "run token-vault init or serve; if there should be a vault, correct --data or database.url"
        findings.append(note("database", "there is no vault here yet", fix=fix))
        return findings + await _examine_without_vault(setup, settings)
    return findings + await _examine_deployment(settings, data=data, checks=_ALL)


async def _examine_without_vault(setup: Setup, settings: Settings) -> list[Finding]:
    """Check address and providers with a temporary vault: the doctor doesn't create a permanent one."""
    from tempfile import TemporaryDirectory

    from server.runtime.catalog import OWN_FILES

    own = setup.directory() / OWN_FILES
    overrides: dict[str, object] = {
        "database": {"url": "sqlite:", "url_file": None},
        "keys": {"source": "file", "file": None, "also": None},
        "provider_folders": [*([own] if own.is_dir() else []), *settings.provider_folders],
    }
    with TemporaryDirectory(prefix="token-vault-doctor-") as scratch:
        return await _examine_deployment(setup.settings(overrides), data=Path(scratch), checks=_OF_SETTINGS)


async def _examine_database(deployment: Deployment) -> list[Finding]:
    from server.administration.client_checks import check_client_tokens
    from server.doctor.activity import check_activity
    from server.doctor.database import check_history, check_pooler
    from server.doctor.findings import ok
    from server.doctor.policy import check_policy
    from server.doctor.refreshes import check_refreshes
    from server.doctor.signals import check_people_and_endpoints
    from vault.storage.database import schema_files
    from vault.upkeep import health

    await health.check_schema(deployment.database)
    await health.check_keys(deployment.database, deployment.keys)
    await health.check_writable(deployment.database)
    schema = f"schema {len(schema_files())} ({deployment.database.fingerprint})"
    return [
        ok("database", f"opens, uses {schema}, and accepts writes"),
        await check_history(deployment),
        *await check_refreshes(deployment),
        *await check_activity(deployment),
        *await check_people_and_endpoints(deployment),
        *await check_client_tokens(deployment),
        *await check_policy(deployment),
        *check_pooler(deployment.database),
    ]


async def _examine_settings(deployment: Deployment) -> list[Finding]:
    from server.administration.assertion_checks import check_assertions
    from server.administration.company_checks import check_companies
    from server.doctor.address import check_serving
    from server.doctor.auth0 import check_auth0
    from server.doctor.providers import check_providers
    from server.doctor.signals import check_signals
    from server.doctor.tools import check_local_servers, check_tool_names

    return [
        *await check_serving(deployment),
        *check_auth0(deployment),
        *await check_signals(deployment),
        *await check_companies(deployment),
        *await check_assertions(deployment),
        *await check_providers(deployment),
        *check_tool_names(deployment),
        *[one async for one in check_local_servers(deployment)],
    ]


Checks = Sequence[Callable[["Deployment"], Awaitable[list["Finding"]]]]
_OF_SETTINGS: Final[Checks] = (_examine_settings,)
_ALL: Final[Checks] = (_examine_database, _examine_settings)


async def _examine_deployment(settings: Settings, *, data: Path, checks: Checks) -> list[Finding]:
    from providers.definitions.catalog import ProviderFileRefused
    from providers.tools.declarations import ToolFileRefused
    from server.app import open_deployment
    from server.doctor.findings import correct_setting, problem
    from server.settings import SettingsRefused
    from vault.refusals import KeyUnavailable, VaultError

    findings: list[Finding] = []
    try:
        async with open_deployment(settings, data=data, creates=checks is _OF_SETTINGS) as deployment:
            for check in checks:
                findings += await check(deployment)
    except KeyUnavailable as refused:
        where = f"keys.source is {settings.keys.source!r}"
        if settings.keys.source == "file":
            where += f", keys.file {settings.keys.file or data / 'master.key'}"
        fix = f"restore the key that belongs to this database, or correct the setting: {where}"
        findings.append(problem("key", refused.description, fix=fix))
    except VaultError as refused:
        setting = "database.url" if settings.database.url_file is None else "database.url_file"
        fix = f"make the database reachable and writable for this user, or correct {setting}"
        findings.append(problem("database", refused.description, fix=fix))
    except ProviderFileRefused as refused:
        fix = (
            correct_setting(refused)
            if str(refused).startswith("providers.")
            else "correct the provider file; token-vault providers check FILE prints every problem"
        )
        findings.append(problem("providers", str(refused), fix=fix))
    except ToolFileRefused as refused:
        findings.append(
            problem("tools", str(refused), fix="correct the tool file, or remove its folder from tools.folders")
        )
    except SettingsRefused as refused:
        findings.append(problem("settings", str(refused), fix=correct_setting(refused)))
    return findings


def _report(setup: Setup, findings: Sequence[Finding]) -> None:
    if setup.as_json:
        setup.show_json(
            [
                {"check": one.check, "verdict": one.verdict.value, "sentence": one.sentence, "fix": one.fix or None}
                for one in findings
            ]
        )
        return
    width = max(len(one.check) for one in findings) + 2
    for one in findings:
        say_with_label(f"{one.verdict.value:9}{one.check:{width}}", one.sentence)
        if one.fix:
            say_with_label(f"{'':9}{'':{width}}fix: ", one.fix)
