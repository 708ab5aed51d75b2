"""`doctor`: known problems of an installation, and how to fix them. Records no event and opens no token."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from server.commands.context import Setup, missing_vault, say_with_label

if TYPE_CHECKING:
    from server.doctor.findings import Finding
    from server.settings import Settings


def doctor(setup: Setup) -> None:
    """Check the installation for known problems and print a fix for each."""
    from server.doctor.findings import Verdict

    findings = setup.run(_examine(setup))
    _report(setup, findings)
    if any(one.verdict is Verdict.PROBLEM for one in findings):
        raise typer.Exit(1)


async def _examine(setup: Setup) -> list[Finding]:
    """All checks that can run; what cannot be read or opened is itself a finding."""
    from server.doctor.files import check_files
    from server.doctor.findings import note, ok, problem
    from server.settings import SettingsRefused

    try:
        settings = setup.settings()
    except SettingsRefused as refused:
        return [
            problem("settings", str(refused), fix="see docs/reference/settings.md for every setting and its limits")
        ]
    data, config = setup.directory(), setup.config
    if config is None and (data / "config.toml").is_file():
        config = data / "config.toml"
    where = f"using defaults and the environment; there is no settings file at {data / 'config.toml'}"
    findings = [ok("settings", where if config is None else str(config))]
    findings += check_files(settings, data=data, config=config, environment=os.environ)
    if any(one.check == "key" and one.verdict == "problem" for one in findings):
        return findings
    if missing_vault(settings, data=data) is not None:  # and the doctor makes none
        fix = "run token-vault init or serve; if there should be a vault, correct --data or database.url"
        return [*findings, note("database", "there is no vault here yet, so nothing else was checked", fix=fix)]
    return findings + await _examine_deployment(setup, settings)


async def _examine_deployment(setup: Setup, settings: Settings) -> list[Finding]:
    from providers.definitions.catalog import ProviderFileRefused
    from server.app import open_deployment
    from server.doctor.activity import check_activity
    from server.doctor.database import check_history, check_pooler
    from server.doctor.findings import ok, problem
    from server.doctor.providers import check_providers
    from server.doctor.refreshes import check_refreshes
    from server.doctor.serving import check_serving
    from server.settings import SettingsRefused
    from vault import health
    from vault.refusals import KeyUnavailable, VaultError
    from vault.storage.database import schema_files

    findings: list[Finding] = []
    try:
        async with open_deployment(settings, data=setup.directory(), creates=False) as deployment:
            await health.check_schema(deployment.database)
            await health.check_keys(deployment.database)
            await health.check_writable(deployment.database)
            schema = f"schema {len(schema_files())} ({deployment.database.fingerprint})"
            findings.append(ok("database", f"opens, uses {schema}, and accepts writes"))
            findings.append(await check_history(deployment))
            findings += await check_refreshes(deployment)
            findings += await check_activity(deployment)
            findings += check_pooler(deployment.database)
            findings += await check_serving(deployment)
            findings += await check_providers(deployment)
    except KeyUnavailable as refused:
        findings.append(problem("key", refused.description, fix="restore the key that belongs to this database"))
    except VaultError as refused:
        fix = "make the database reachable and writable for this user, or correct database.url"
        findings.append(problem("database", refused.description, fix=fix))
    except ProviderFileRefused as refused:
        findings.append(problem("providers", str(refused), fix="token-vault providers check FILE"))
    except SettingsRefused as refused:
        findings.append(problem("settings", str(refused), fix="make the file readable, or correct its path"))
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
