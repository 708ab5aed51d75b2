"""One program from start to end: hosts, authority, proxy, environment, the process, and what is recorded of it."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from providers.definitions.catalog import is_shipped, load_catalog
from providers.definitions.model import Provider
from providers.outbound.addresses import AddressPolicy
from server.deployment import Deployment
from server.programs.access import PermissionWait, ProgramAccess
from server.programs.certificates import RunAuthority
from server.programs.child import run_child
from server.programs.environment import ProgramPlace, aws_configuration, bundle_text, environment_of, own_bundles
from server.programs.front import Front, OtherHosts
from server.programs.hosts import HostMap, addresses_of
from server.programs.local_calls import LocalCalls
from server.programs.own_variables import OwnVariables
from vault import sharing
from vault.records import Event, Principal

_MOST_HOSTS: Final = 1000  # of which events are written in one run


@dataclass(frozen=True, slots=True)
class ProgramOptions:
    """What to run, and how. `environment`: ours, of which the program inherits all but the vault's own.

    `say` tells the person at the terminal something; `wait`: seconds for which a call waits for a permission.
    """

    command: Sequence[str]
    agent: str
    accounts: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    say: Callable[[str], None]
    wait: float = 120.0
    allows_other_hosts: bool = False


@dataclass(frozen=True, slots=True)
class ProgramRecord:
    """What a run came to. `calls`: by provider and outcome; `hosts`: the others, by outcome.

    A call `passed` if the service answered, was `refused` if the vault did, and is `unanswered` if nobody waited.
    """

    exit_code: int
    calls: Mapping[tuple[str, str], int]
    hosts: Mapping[tuple[str, str], int]

    def members(self) -> dict[str, object]:
        """Its members in JSON."""
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
    """Why the program can't be run like this, with the fix."""
    if deployment.settings.tokens.require_dpop:
        return "tokens.require_dpop is on, and programs prove no key: turn it off, or call the API proxy with DPoP."
    return await _access(deployment, principal, options).unknown_account()


async def run_program(deployment: Deployment, principal: Principal, options: ProgramOptions) -> ProgramRecord:
    """Run the program as this agent until it ends; `problem_of` says nothing against it."""
    hosts = await _hosts(deployment, principal)
    access = _access(deployment, principal, options)
    calls = LocalCalls(deployment, hosts, access)
    others = _Others(deployment, principal, options)
    with tempfile.TemporaryDirectory(prefix="token-vault-run-") as name:
        folder = Path(name)
        authority = RunAuthority(hosts.domains, folder=folder)
        place = AddressPolicy(allow_loopback=deployment.settings.sandbox.loopback_upstreams)
        proxy = deployment.settings.outbound.proxy_address()
        rest = OtherHosts(options.allows_other_hosts, place, others.note, access.has_account_at, proxy)
        front = Front(hosts, authority, calls.answer, rest)
        async with front.listen():
            environment = environment_of(
                options.environment,
                _place(front, authority, folder, options),
                hosts.providers,
                own=OwnVariables(deployment.settings),
            )
            try:
                code = await run_child(options.command, environment)
            finally:
                await access.close()
    return ProgramRecord(code, calls.counts, others.counts)


def _access(deployment: Deployment, principal: Principal, options: ProgramOptions) -> ProgramAccess:
    asking = PermissionWait(lambda message, url: _ask(deployment, options, message, url), options.wait)
    return ProgramAccess(deployment, principal, asking, agent=options.agent, accounts=options.accounts)


async def _hosts(deployment: Deployment, principal: Principal) -> HostMap:
    """The APIs of the providers that are set up here, or that the person has accounts at."""
    usable = await sharing.usable_by(deployment.database, principal.user_id, now=deployment.now())
    with_accounts = {one.provider for one in usable}
    catalog = deployment.catalog
    chosen = [one for one in catalog if _is_set_up(one) or one.name in with_accounts]
    known = {one.name for one in chosen}
    chosen += [found for name in sorted(with_accounts - known) if (found := catalog.get(name)) is not None]
    return host_map(deployment, [one for one in chosen if not one.is_remote])


def host_map(deployment: Deployment, chosen: Iterable[Provider]) -> HostMap:
    """The APIs of these providers, also at their published addresses where a simulator stands for them."""
    published, simulated = load_catalog(), deployment.settings.sandbox.loopback_upstreams
    return HostMap(
        address
        for one in chosen
        for address in addresses_of(
            one, published=published.provider(one.name).apis if simulated and is_shipped(one.name) else None
        )
    )


def _is_set_up(provider: Provider) -> bool:
    return provider.registration.client_id is not None or (
        provider.credential is not None and provider.registration.is_on
    )


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


class _Others:
    """Hosts of nobody's account that the program called: one event each, and one line for a refused one."""

    def __init__(self, deployment: Deployment, principal: Principal, options: ProgramOptions) -> None:
        self._deployment = deployment
        self._principal = principal
        self._options = options
        self.counts: dict[tuple[str, str], int] = {}

    def note(self, host: str, port: int, is_reached: bool) -> None:
        """A call of this host."""
        outcome = "ok" if is_reached else "refused"
        times = self.counts.get((host, outcome), 0)
        if times == 0 and len(self.counts) >= _MOST_HOSTS:
            return
        self.counts[host, outcome] = times + 1
        if times:
            return
        event = Event(
            "program.called",
            outcome=outcome,
            user_id=self._principal.user_id,
            client_id=self._principal.client_id,
            details={"host": host[:253], "port": port, **({} if is_reached else {"code": "host_refused"})},
        )
        activity = self._deployment.activity
        (activity.note if is_reached else activity.note_refusal)(event)
        if not is_reached and not self._options.allows_other_hosts:
            self._options.say(f"Refused {host}: no connected account is there. --allow-other-hosts allows it.")
