"""Runs one program from start to end: hosts, authority, proxy, environment, the process, and its record."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from providers.outbound.addresses import AddressPolicy
from server.deployment import Deployment
from server.programs.certificates import RunAuthority
from server.programs.child import run_child
from server.programs.environment import ProgramPlace, aws_configuration, bundle_text, environment_of, own_bundles
from server.programs.front import Answerer, Front, OtherHosts
from server.programs.local_calls import LocalCalls
from server.programs.own_variables import OwnVariables
from server.proxy.program_access import PermissionWait, ProgramAccess
from server.proxy.program_hosts import HOST_REFUSED, HostMap, hosts_of, note_host
from vault.records import Principal

_MOST_HOSTS: Final = 1000  # hosts that are counted and recorded in one run


@dataclass(frozen=True, slots=True)
class ProgramOptions:
    """What to run, and how. `environment`: ours; the program inherits all of it except the vault's own variables.

    `say` prints a message for the person at the terminal. `wait`: seconds for which a call waits for a permission.
    `start` runs the command in its environment.
    """

    command: Sequence[str]
    agent: str
    accounts: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    say: Callable[[str], None]
    wait: float = 120.0
    allows_other_hosts: bool = False
    start: Callable[[Sequence[str], Mapping[str, str]], Awaitable[int]] = run_child


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """The result of a run. `calls`: counts by provider and outcome; `hosts`: other hosts, by outcome.

    A call `passed` if the service answered, was `refused` if the vault did, and is `unanswered` if no one waited.
    """

    exit_code: int
    calls: Mapping[tuple[str, str], int]
    hosts: Mapping[tuple[str, str], int]

    def members(self) -> dict[str, object]:
        """The record as JSON members."""
        return {
            "exit_code": self.exit_code,
            "calls": [
                {"provider": name, "outcome": outcome, "count": count}
                for (name, outcome), count in sorted(self.calls.items())
            ],
            "other_hosts": [
                {"host": host, "outcome": outcome, "count": count}
                for (host, outcome), count in sorted(self.hosts.items())
            ],
        }


async def problem_of(deployment: Deployment, principal: Principal, options: ProgramOptions) -> str | None:
    """Why the program can't run with these options, with the fix; None if it can."""
    if deployment.settings.tokens.require_dpop:
        return (
            "tokens.require_dpop is on, and programs can't prove a key: turn it off, or call the API proxy with DPoP."
        )
    return await _access(deployment, principal, options).unknown_account()


async def run_program(deployment: Deployment, principal: Principal, options: ProgramOptions) -> ProgramRecord:
    """Run the program as this agent until it ends. Call `problem_of` first."""
    hosts = await hosts_of(deployment, principal)
    access = _access(deployment, principal, options)
    calls = LocalCalls(deployment, hosts, access)

    def record(host: str, port: int, is_reached: bool) -> None:
        note_host(deployment, principal, host, port, code="" if is_reached else HOST_REFUSED)

    others = HostCounts(options, record)
    place = AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_upstreams)
    proxy = deployment.settings.outbound.proxy_address()
    rest = OtherHosts(options.allows_other_hosts, place, others.note, access.has_account_at, proxy)
    try:
        code = await run_behind(hosts, calls.answer, rest, options, own=OwnVariables(deployment.settings))
    finally:
        await access.close()
    return ProgramRecord(code, calls.counts, others.counts)


async def run_behind(
    hosts: HostMap, answer: Answerer, others: OtherHosts, options: ProgramOptions, *, own: Container[str]
) -> int:
    """Run the program behind its own proxy. Returns its exit code. `own`: variables that it doesn't inherit."""
    with tempfile.TemporaryDirectory(prefix="token-vault-run-") as name:
        folder = Path(name)
        authority = RunAuthority(hosts.domains, folder=folder)
        front = Front(hosts, authority, answer, others)
        async with front.listen():
            place = _place(front, authority, folder, options)
            environment = environment_of(options.environment, place, hosts.providers, own=own)
            return await options.start(options.command, environment)


def _access(deployment: Deployment, principal: Principal, options: ProgramOptions) -> ProgramAccess:
    asking = PermissionWait(lambda message, url: _ask(deployment, options, message, url), options.wait)
    return ProgramAccess(deployment, principal, asking, agent=options.agent, accounts=options.accounts)


def _place(front: Front, authority: RunAuthority, folder: Path, options: ProgramOptions) -> ProgramPlace:
    bundle, alone, aws = folder / "bundle.pem", folder / "authority.pem", folder / "aws"
    texts = {
        bundle: bundle_text(authority.pem, has_system_roots=options.allows_other_hosts),
        alone: authority.pem,
        aws: aws_configuration(options.environment),
    }
    own: dict[str, Path] = {}
    if options.allows_other_hosts:
        for name, text in own_bundles(options.environment).items():
            own[name] = folder / f"{name}.pem"
            texts[own[name]] = f"{text}\n{authority.pem}"
    for file, text in texts.items():
        file.touch(mode=0o600)
        file.write_text(text, encoding="utf-8")
    return ProgramPlace(front.url, bundle, alone, aws, f"token-vault-{secrets.token_hex(16)}", own)


def _ask(deployment: Deployment, options: ProgramOptions, message: str, url: str) -> None:
    options.say(f"{message} Open {url}. The program waits.")
    if deployment.open_browser is not None:
        with suppress(OSError):
            deployment.open_browser(url)


class HostCounts:
    """Counts the other hosts that the program called, and prints one line for each that is refused.

    `record` gets the first call to each.
    """

    def __init__(self, options: ProgramOptions, record: Callable[[str, int, bool], None] | None = None) -> None:
        self._options = options
        self._record = record
        self.counts: dict[tuple[str, str], int] = {}

    def note(self, host: str, port: int, is_reached: bool) -> None:
        """Count a call to this host."""
        outcome = "ok" if is_reached else "refused"
        times = self.counts.get((host, outcome), 0)
        if times == 0 and len(self.counts) >= _MOST_HOSTS:
            return
        self.counts[host, outcome] = times + 1
        if times:
            return
        if self._record is not None:
            self._record(host, port, is_reached)
        if not is_reached and not self._options.allows_other_hosts:
            self._options.say(f"Refused {host}: it belongs to no connected account. --allow-other-hosts allows it.")
