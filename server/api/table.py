"""The table of operations: everything that the Admin API can do."""

from __future__ import annotations

from typing import Final

from server.api import (
    access,
    access_requests,
    activity,
    agents,
    declarations,
    explanations,
    groups,
    imported_apis,
    mcp_servers,
    panics,
    people,
    providers,
    revocations,
    vault_state,
    webhooks,
)
from server.api.operations import AdminOperation

OPERATIONS: Final[tuple[tuple[str, tuple[AdminOperation, ...]], ...]] = (
    ("Vault", vault_state.OPERATIONS),
    ("People", people.OPERATIONS),
    ("Groups", groups.OPERATIONS),
    ("Access", access.OPERATIONS),
    ("Explanations", explanations.OPERATIONS),
    ("Access requests", access_requests.OPERATIONS),
    ("Bulk revocation", panics.OPERATIONS),
    ("Revocations", revocations.OPERATIONS),
    ("Agents and APIs", agents.OPERATIONS),
    ("Providers and tools", providers.OPERATIONS),
    ("MCP servers", mcp_servers.OPERATIONS),
    ("Imported APIs", imported_apis.OPERATIONS),
    ("Activity", activity.OPERATIONS),
    ("Webhooks", webhooks.OPERATIONS),
    ("Declarations", declarations.OPERATIONS),
)
ROOT: Final = "/admin/v1"
