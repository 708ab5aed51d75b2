"""`providers test`: test a provider file through a connection's whole life, with the simulator or the real service."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.terminal.completion import complete_providers
from server.terminal.context import Setup, fail, note, say
from server.terminal.names import provider_called

if TYPE_CHECKING:
    from collections.abc import Sequence

    from providers.check.live import LiveStep
    from providers.check.trial import StepResult
    from providers.definitions.model import Provider

LIVE_TESTS = "live-tests.json"  # in the data directory: provider -> the last day on which `--live` passed


def test_provider(
    setup: Setup,
    name: Annotated[
        str | None,
        typer.Argument(
            help="A provider, or a provider file (TOML).", show_default=False, autocompletion=complete_providers
        ),
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Test every provider.")] = False,
    mode: Annotated[
        str | None,
        typer.Option("--mode", help="Simulator mode, for testing your own provider file.", show_default=False),
    ] = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Test against the live service, with your registration and a browser."),
    ] = False,
) -> None:
    """Test a provider file through the life of a connection."""
    if (name is None) == (not everything):
        fail("pass one provider or file, or --all")
    if live:
        if name is None:
            fail("use --live with one provider")
        _test_live(setup, name)
        return
    from providers.check.check import examine_all
    from providers.simulator.modes import MODES, SERVED
    from server.terminal.progress import show_progress

    if mode is not None and mode not in SERVED:
        fail(f"no mode {mode!r}; choose from: {', '.join(sorted(MODES))}")
    chosen = _choose_providers(setup, name)
    with show_progress() as tell:
        found = setup.run(examine_all(chosen, mode=mode, tell=tell))
    rows = [_result_row(provider, one) for provider, _, findings in found for one in findings]
    _show_findings(setup, rows, single=name is not None)


def _choose_providers(setup: Setup, name: str | None) -> Sequence[Provider]:
    from providers.definitions.catalog import read_provider

    if name is not None and name.endswith(".toml"):
        return (_with_oauth(read_provider(Path(name))),)
    catalog = setup.catalog_of_settings()
    if name is None:
        return [one for one in catalog.all_providers() if one.audience is None and one.credential is None]
    return (_with_oauth(provider_called(catalog, name)),)


def _with_oauth(provider: Provider) -> Provider:
    if provider.audience is not None:
        fail(
            f"{provider.name} accepts this vault's own tokens, so there is no OAuth flow to test. Call one of "
            "its tools instead"
        )
    if provider.credential is not None:
        fail(f"{provider.name} has no OAuth flow to test: connect an account, then run token-vault doctor")
    return provider


def _result_row(provider: Provider, one: StepResult | LiveStep) -> dict[str, object]:
    return {"provider": provider.name, "step": one.step, "outcome": one.outcome, "note": one.note}


def _show_findings(setup: Setup, rows: Sequence[dict[str, object]], *, single: bool) -> None:
    failed = [row for row in rows if row["outcome"] == "failed"]
    if setup.as_json:
        setup.show_json(list(rows))
    elif single or failed:
        setup.show(rows if single else failed, columns=("provider", "step", "outcome", "note"), empty="")
    if not single and not setup.as_json:
        say(f"{len({row['provider'] for row in rows})} files, {len(failed)} failed steps")
    if failed:
        raise typer.Exit(1)


def _test_live(setup: Setup, name: str) -> None:
    from providers.check.live import live_test

    provider = _with_oauth(provider_called(setup.providers().catalog, name))
    settings = setup.settings()
    redirect = f"{settings.public_url}/connect/callback/{provider.name}"

    async def ask(url: str) -> str:
        note(
            "Open this address, allow access, and paste the address the browser ends up at (the page may show "
            "an error):"
        )
        say(url)
        return str(typer.prompt("Address", err=True))

    findings = setup.run(live_test(provider, redirect_uri=redirect, ask=ask))
    rows = [_result_row(provider, one) for one in findings]
    if all(one.outcome != "failed" for one in findings):
        tested = {**live_tests(setup), provider.name: datetime.now(UTC).date().isoformat()}
        (setup.directory() / LIVE_TESTS).write_text(json.dumps(tested, indent=2) + "\n", encoding="utf-8")
    _show_findings(setup, rows, single=True)


def live_tests(setup: Setup) -> dict[str, str]:
    """The last day on which `--live` passed, by provider."""
    try:
        found: object = json.loads((setup.directory() / LIVE_TESTS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return {str(name): str(day) for name, day in found.items()} if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- our own file
