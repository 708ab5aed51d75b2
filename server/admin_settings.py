"""The settings of the Admin API, and of requests that admins answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field

from server.provider_settings import Section
from vault import groups
from vault.records import Role, highest


class AdminSettings(Section):
    """The Admin API, and who can administer the vault."""

    api: bool = Field(default=True, description="Serve the Admin API at /admin/v1")
    requests_per_minute: int = Field(
        default=600,
        ge=10,
        le=1_000_000,
        description="Requests per minute of one admin's client, in each process",
    )
    group_roles: Mapping[str, Literal["administrator", "auditor"]] = Field(
        default_factory=dict[str, Literal["administrator", "auditor"]],
        description="Role by group: `administrator`, or `auditor`, who reads the administration and changes nothing",
    )

    def highest_role(self, own: Role, within: Iterable[str]) -> Role:
        """The highest of a person's own role and the roles of their groups. `within`: keys of those groups."""
        rule = {groups.name_key(name): Role(role) for name, role in self.group_roles.items()}
        return highest((own, *(rule[key] for key in within if key in rule)))


class AccessRequestSettings(Section):
    """Requests for access that only an admin or a manager of the group can give."""

    longest_days: int = Field(
        default=30, ge=0, le=365, description="Maximum number of days that an answer can allow; 0 turns requests off"
    )
    groups: tuple[str, ...] = Field(
        default=(), description="Groups with accounts that people outside the group can see and request"
    )
