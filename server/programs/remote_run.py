"""Runs one program from start to end, with the accounts of a remote vault."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from contextlib import suppress

from providers.outbound.addresses import AddressPolicy
from server.bridge.access import Access
from server.bridge.address import RemoteVault
from server.programs.front import OtherHosts
from server.programs.program_run import HostCounts, ProgramOptions, ProgramRecord, run_behind
from server.programs.remote_calls import RemoteCalls
from server.proxy.program_hosts import ApiAddress


async def run_for(
    vault: RemoteVault,
    access: Access,
    options: ProgramOptions,
    *,
    own: Container[str],
    proxy: str | None,
    open_browser: Callable[[str], bool] | None,
) -> ProgramRecord:
    """Run the program as the agent that is signed in at this vault. Raises BridgeRefused before it starts."""

    def ask(message: str, url: str) -> None:
        options.say(f"{message} Open {url}. The program waits.")
        if open_browser is not None:
            with suppress(OSError):
                open_browser(url)

    calls = RemoteCalls(vault, access, accounts=options.accounts, say=ask, wait=options.wait)

    def record(host: str, port: int, is_reached: bool) -> None:
        if not is_reached and not options.allows_other_hosts:
            calls.tell_refused(host, port)

    others = HostCounts(options, record)
    try:
        hosts = await calls.hosts()
        rest = OtherHosts(options.allows_other_hosts, AddressPolicy(), others.note, _are_ours, proxy)
        code = await run_behind(hosts, calls.answer, rest, options, own=own)
    finally:
        await calls.close()
    return ProgramRecord(code, calls.counts, others.counts)


async def _are_ours(found: Sequence[ApiAddress]) -> bool:
    """Always true: the vault decides about every host that matches one of its APIs, even without an account."""
    return True
