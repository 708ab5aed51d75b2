"""What docs/operate/limits.md lists: every limit with its figures read from the constants and defaults that enforce it.

A figure in a text is `{module.CONSTANT}`, or `{module.Class.field}` for a field's default; `:KiB`, `:MiB`, and
`:minutes` divide it. Settings are named instead of their defaults.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, Final

IN_EACH_PROCESS: Final = {
    "connections": "`server.connections` (default: open files minus {server.http.connections._SPARE_FILES}, at most "
    "{server.http.connections.MOST}; one in {server.http.connections._RESERVED} for this machine and trusted proxies), "
    "`server.connections_per_address`",
    "incomplete request": "{server.http.connections.ConnectionLimits.head_time} s for the head; "
    "{server.http.connections.ConnectionLimits.body_time} s for the body, plus one for each "
    "{server.http.connections.BODY_RATE:KiB} KiB; {server.http.connections.LINE:KiB} KiB a line, "
    "{server.http.connections.HEAD:KiB} KiB a head, bounded chunk framing",
    "idle connection; requests behind one in progress": "5 s; {server.http.connections.PIPELINED} per connection",
    "connections to `/metrics`": "{server.telemetry.figures_page.CONNECTIONS}, with the same times",
    "look-ups of names that strangers choose": "{providers.outbound.client.FOREIGN_LOOKUPS} threads, "
    "{providers.outbound.client.FOREIGN_SHARE} per address; providers have {providers.outbound.lookups.THREADS} "
    "others, {providers.outbound.lookups.SHARE} per name",
    "fetches of documents and keys": "{providers.outbound.client.CALLS_PER_PEER} in flight, "
    "{providers.outbound.client.CALLS_PER_ACCOUNT} per address, {server.signatures.key_sets._FETCH_TIME} s each; keys "
    "of {server.signatures.key_sets._REMEMBERED} addresses are kept",
    "calls in flight at a provider": "{providers.outbound.client.CALLS_PER_PEER}, "
    "{providers.outbound.client.CALLS_PER_ACCOUNT} per "
    "account; {vault.refresh.concurrency.PLACES} refreshes, {vault.refresh.concurrency.AHEAD} of them "
    "without a waiting caller",
    "MCP servers behind the vault": "{providers.remote.listing.MOST} tools each, in a list of "
    "{providers.remote.listing.LONGEST_LIST:MiB}"
    " MiB",
    "programs of local servers": "`tools.local_processes`, half of them for one person",
    "attempts to connect to PostgreSQL": "{vault.storage.postgres_attempts.AT_ONCE} at a time",
    "keys tried out at a service": "{server.deployment.ENTRIES_PER_HOUR} an hour per person and service",
    "passwords tried out at a service": "{server.connecting.credentials.SIGN_INS} an hour per person, "
    "{server.connecting.credentials.SIGN_INS_BY_NAME} per user name there",
    "JSON to `/mcp` over {server.mcp.mcp_bodies._SMALL:KiB} KiB": "{server.mcp.mcp_bodies._MOST_NESTED} objects and "
    "arrays, {server.mcp.mcp_bodies._MOST_VALUES} values, {server.mcp.mcp_bodies._MOST_NAMES} arguments",
    "proxied bodies that must be judged": "`proxy.read_limit`; over {server.proxy.large_bodies.LARGE:MiB} MiB, "
    "{server.proxy.large_bodies.MOST_EACH} calls per agent and {server.proxy.large_bodies.MOST} in total; "
    "{server.proxy.wire._MOST_NESTED} objects and arrays, {server.proxy.wire._MOST_VALUES} values",
    "MCP sessions and SSE streams": "{server.mcp.sessions.PER_CLIENT} per agent, {server.mcp.sessions.PER_PERSON} per "
    "person, {server.mcp.sessions.TOTAL} in total; the agent's own oldest ends first",
}
IN_THE_DATABASE: Final = {
    "authorization requests and device codes": "`sign_in.waiting_requests_per_address` in "
    "{server.oauth.authorize.REQUEST_LIFETIME:minutes} minutes, {server.oauth.authorize._ADDRESSES} times that in "
    "total; {server.oauth.pushed_requests.LIMIT:KiB} KiB each; kept {vault.tickets._KEPT_OF_STRANGERS:minutes} minutes "
    "after their end",
    "registrations and their changes": "`registration.per_address_hourly`, `registration.total_hourly`; "
    "{server.oauth.clients.registration._REWRITES} changes of one client an hour; "
    "{server.oauth.clients.rules._KEPT:KiB} KiB each; kept a day while unused",
    "clients known by a document": "the same, counted separately; "
    "{server.oauth.clients.metadata_documents.MAX_BYTES:KiB} KiB each; kept as registered ones",
    "DPoP proofs; client assertions": "{server.deployment.ROWS_PER_MINUTE} a minute per address, in each process; kept "
    "6 minutes; an hour",
    "sign-ins with OpenID Connect": "{server.portal.openid._STARTS_PER_MINUTE} starts and "
    "{server.portal.openid._RETURNS_PER_MINUTE} returns a minute per address; kept 15 minutes",
    "links to connect": "{server.connecting.links.LINKS} in {server.connecting.links.LIFETIME:minutes} minutes per "
    "agent and "
    "person",
    "approvals that wait": "{vault.approvals.approvals.MOST_OPEN} per agent and person",
    "access requests": "{vault.approvals.access_requests.MOST_OPEN} open and "
    "{server.administration.access_requests.PER_DAY}"
    " a day per person",
    "wrong passwords": "`sign_in.failures_per_account`, `sign_in.failures_per_address` in "
    "{server.sign_in.password.WINDOW:minutes} minutes; kept as events",
    "[signals](signals.md)": "`signals.transmitters.NAME.per_minute`; {server.signals.provider_webhooks._PER_MINUTE} "
    "webhooks a minute per provider; one look at an account a minute; kept events' IDs for `max_age`, webhooks' for 3 "
    "days",
    "wrong passkeys": "`sign_in.failures_per_address` in {server.sign_in.password.WINDOW:minutes} minutes, with wrong "
    "passwords; {server.sign_in.passkeys._ADDS} tries to add one; {vault.sign_in.passkeys.MOST} passkeys each; kept as "
    "events",
    "sign-ins and changed passwords": "{server.sign_in.password._SESSIONS} per person in "
    "{server.sign_in.password.WINDOW:minutes} minutes; kept as events and sessions",
}
_FIGURE: Final = re.compile(r"\{([a-z_.0-9]+)\.([A-Za-z_.]+)(?::(\w+))?\}")
_UNITS: Final = {None: 1, "KiB": 1024, "MiB": 1024 * 1024, "minutes": 60}


def listed(limits: dict[str, str]) -> str:
    """The limits as a list in Markdown. An unknown constant is an AttributeError."""
    return "".join(f"- {_with_figures(what)}: {_with_figures(bound)}\n" for what, bound in limits.items())


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
