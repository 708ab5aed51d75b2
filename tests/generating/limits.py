"""The list in docs/operate/limits.md: every limit, with figures read from the constants and defaults that enforce it.

A figure in a text is `{module.CONSTANT}`, or `{module.Class.field}` for a field's default; `:KiB`, `:MiB`, and
`:minutes` divide it. Settings are named instead of their defaults.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, Final

IN_EACH_PROCESS: Final = {
    "Connections": "`server.connections` (default: open files minus {server.http.connections._SPARE_FILES}, at most "
    "{server.http.connections.MOST}), `server.connections_per_address`; one in {server.http.connections._RESERVED} is "
    "for this machine and trusted proxies; {server.telemetry.figures_page.CONNECTIONS} to `/metrics`",
    "Incomplete requests": "{server.http.connections.ConnectionLimits.head_time} s for the head, "
    "{server.http.connections.ConnectionLimits.body_time} s and one per {server.http.connections.BODY_RATE:KiB} KiB "
    "for the body; {server.http.connections.LINE:KiB} KiB a line, {server.http.connections.HEAD:KiB} KiB a head",
    "DNS look-ups": "{providers.outbound.client.FOREIGN_LOOKUPS} of names that others choose, "
    "{providers.outbound.client.FOREIGN_SHARE} per address; {providers.outbound.lookups.THREADS} of providers, "
    "{providers.outbound.lookups.SHARE} per name",
    "Fetches of documents and keys": "{providers.outbound.client.CALLS_PER_PEER} in flight, "
    "{providers.outbound.client.CALLS_PER_ACCOUNT} per address, {server.signatures.key_sets._FETCH_TIME} s each; keys "
    "of {server.signatures.key_sets._REMEMBERED} addresses are kept",
    "Calls in flight at a provider": "{providers.outbound.client.CALLS_PER_PEER}, "
    "{providers.outbound.client.CALLS_PER_ACCOUNT} per account; {vault.refresh.concurrency.PLACES} refreshes, "
    "{vault.refresh.concurrency.AHEAD} of them ahead of time",
    "Tools of an MCP server": "{providers.remote.tool_descriptions.MOST}, in a list of "
    "{providers.remote.tool_descriptions.LONGEST_LIST:MiB} MiB",
    "Programs of local servers": "`tools.local_processes`, half of them for one person; no cgroup, and "
    "{server.programs.hosted.process._LARGEST_FILE:MiB} MiB a file",
    "API keys tried at a service": "{server.deployment.ENTRIES_PER_HOUR} an hour per person and service",
    "Passwords tried at a service": "{server.connecting.credentials.SIGN_INS} an hour per person, "
    "{server.connecting.credentials.SIGN_INS_BY_NAME} per user name there",
    "JSON to `/mcp` over {server.mcp.mcp_bodies._SMALL:KiB} KiB": "{server.mcp.mcp_bodies._MOST_NESTED} objects and "
    "arrays, {server.mcp.mcp_bodies._MOST_VALUES} values, {server.mcp.mcp_bodies._MOST_NAMES} arguments",
    "Proxied bodies that the vault reads": "`proxy.read_limit`; over {server.proxy.large_bodies.LARGE:MiB} MiB, "
    "{server.proxy.large_bodies.MOST_EACH} at once per agent and {server.proxy.large_bodies.MOST} in total; "
    "{server.proxy.wire._MOST_NESTED} objects and arrays, {server.proxy.wire._MOST_VALUES} values",
    "MCP sessions and SSE streams": "{server.mcp.sessions.PER_CLIENT} per agent, {server.mcp.sessions.PER_PERSON} per "
    "person, {server.mcp.sessions.TOTAL} in total; a new one ends the agent's oldest",
}
IN_THE_DATABASE: Final = {
    "Authorization requests and device codes": "`sign_in.waiting_requests_per_address` in "
    "{server.oauth.authorize.REQUEST_LIFETIME:minutes} minutes, {server.oauth.authorize._ADDRESSES} times that in "
    "total; {server.oauth.pushed_requests.LIMIT:KiB} KiB each; kept {vault.tickets._KEPT_OF_STRANGERS:minutes} minutes "
    "after their end",
    "Registrations": "`registration.per_address_hourly`, `registration.total_hourly`; "
    "{server.oauth.clients.registration._REWRITES} changes of one client an hour; "
    "{server.oauth.clients.rules._KEPT:KiB} KiB each; kept a day while unused",
    "Client ID metadata documents": "as registrations, but "
    "{server.oauth.clients.metadata_documents.MAX_BYTES:KiB} KiB each",
    "DPoP proofs, client assertions": "{server.deployment.ROWS_PER_MINUTE} a minute per address and process; "
    "proofs are kept 6 minutes, assertions an hour",
    "Sign-ins with OpenID Connect": "{server.portal.openid._STARTS_PER_MINUTE} starts a minute per address; "
    "kept 15 minutes",
    "Links to connect": "{server.connecting.links.LINKS} in {server.connecting.links.LIFETIME:minutes} minutes per "
    "agent and person",
    "Pending approvals": "{vault.approvals.approvals.MOST_OPEN} per agent and person",
    "Access requests": "{vault.approvals.access_requests.MOST_OPEN} open, "
    "{server.administration.access_requests.PER_DAY} a day per person",
    "Wrong passwords and passkeys": "`sign_in.failures_per_address`, passwords also `sign_in.failures_per_account`, in "
    "{server.sign_in.password.WINDOW:minutes} minutes",
    "Passkeys": "{vault.sign_in.passkeys.MOST} each; {server.sign_in.passkeys._ADDS} tries to add one in "
    "{server.sign_in.password.WINDOW:minutes} minutes",
    "[Signals](signals.md)": "`signals.transmitters.NAME.per_minute`; {server.signals.provider_webhooks._PER_MINUTE} "
    "webhooks a minute per provider; IDs of events are kept for `max_age`, of webhooks 3 days",
}
_FIGURE: Final = re.compile(r"\{([a-z_.0-9]+)\.([A-Za-z_.]+)(?::(\w+))?\}")
_UNITS: Final = {None: 1, "KiB": 1024, "MiB": 1024 * 1024, "minutes": 60}


def markdown_list(limits: dict[str, str]) -> str:
    """The limits as a list in Markdown. An unknown constant is an AttributeError."""
    return "".join(f"- **{_with_figures(what)}:** {_with_figures(bound)}\n" for what, bound in limits.items())


def _with_figures(text: str) -> str:
    return _FIGURE.sub(lambda found: _figure(found[1], found[2], found[3]), text)


def _figure(module: str, name: str, unit: str | None) -> str:
    place: Any = importlib.import_module(module)
    *owners, last = name.split(".")
    for owner in owners:
        place = getattr(place, owner)
    value = place.__dataclass_fields__[last].default if owners else getattr(place, last)
    whole, rest = divmod(value, _UNITS[unit])
    assert not rest, f"{module}.{name} is no whole number of {unit}"
    return f"{int(whole):,}"
