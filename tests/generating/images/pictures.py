"""The pages that `make screenshots` draws: each page in the portal's table has a picture or a reason to have none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.generating.images.showcase import Showcase
from tests.support.rooms.portal_room import Room


@dataclass(frozen=True, slots=True)
class Picture:
    """A page to draw. `route` is its path in the portal's table, with placeholders in braces.

    `path`: the URL, if it has more than the route. `press`: the beginning of the name of a button to press first.
    `is_main`: also drawn dark. `is_open`: drawn as people see it who aren't signed in.
    """

    route: str
    path: str = ""
    press: str = ""
    is_main: bool = False
    is_open: bool = False

    def path_of(self, names: Mapping[str, str]) -> str:
        """The URL with these names filled in."""
        return (self.path or self.route.replace(":path}", "}")).format_map(names)


_ADMIN: Final = "/administration"
_IMPORT: Final = f"{_ADMIN}/tools/imports/{{api}}"
KEYED: Final = "stripe"  # a service for which people enter a key
PICTURES: Final[Mapping[str, Picture]] = {
    "sign-in": Picture("/sign-in", is_main=True, is_open=True),
    "sign-in-link": Picture("/sign-in/link", "/sign-in/link?ticket={ticket}", is_open=True),
    "home": Picture("/", is_main=True),
    "accounts": Picture("/connections", is_main=True),
    "account": Picture("/connections/{connection}"),
    "disconnect": Picture("/connections/{connection}/disconnect"),
    "receipt": Picture("/connections", "/connections?closed={receipt}"),
    "connect": Picture("/connections/connect", "/connections/connect?provider=google"),
    "link": Picture("/connect/{handle}"),
    "credential": Picture("/connect/credential/{handle}", f"/connections/connect?provider={KEYED}", press="Enter"),
    "connected": Picture("/connect/done/{connection}", "/connect/done/{connection}?agent={client}"),
    "agents": Picture("/agents", is_main=True),
    "agent": Picture("/agents/{client:path}", is_main=True),
    "cut-off": Picture("/agents/{client:path}/cut-off"),
    "approval": Picture("/approvals/{approval}", is_main=True),
    "approvals": Picture("/approvals"),
    "access-requests": Picture("/access-requests"),
    "access-request": Picture("/access-requests/{request}"),
    "access-request-new": Picture("/access-requests/new", "/access-requests/new?group={askable}"),
    "activity": Picture("/activity"),
    "person": Picture("/account"),
    "password": Picture("/account/password"),
    "deletion": Picture("/account/delete"),
    "notifications": Picture("/notifications"),
    "first-steps": Picture("/first-run"),
    "device": Picture("/device"),
    "device-answered": Picture("/device/answered"),
    "consent": Picture("/consent", "{authorize}", is_main=True),
    "error": Picture("/agents/{client:path}", "/agents/nobody"),
    "admin": Picture(_ADMIN),
    "admin-providers": Picture(f"{_ADMIN}/providers"),
    "admin-provider": Picture(f"{_ADMIN}/providers/{{provider}}"),
    "admin-provider-removal": Picture(
        f"{_ADMIN}/providers/{{provider}}/remove", f"{_ADMIN}/providers/{{stored}}/remove"
    ),
    "admin-people": Picture(f"{_ADMIN}/people"),
    "admin-person": Picture(f"{_ADMIN}/people/{{user}}"),
    "admin-person-new": Picture(f"{_ADMIN}/people/new"),
    "admin-account-new": Picture(f"{_ADMIN}/people/{{user}}/connect"),
    "admin-account-entry": Picture(
        f"{_ADMIN}/people/{{user}}/connect/{{provider}}", f"{_ADMIN}/people/{{user}}/connect/{KEYED}"
    ),
    "admin-person-deletion": Picture(f"{_ADMIN}/people/{{user}}/delete"),
    "admin-groups": Picture(f"{_ADMIN}/groups"),
    "admin-group": Picture(f"{_ADMIN}/groups/{{group}}"),
    "admin-agents": Picture(f"{_ADMIN}/agents"),
    "admin-agent": Picture(f"{_ADMIN}/agents/{{client:path}}"),
    "admin-cut-off": Picture(f"{_ADMIN}/agents/{{client:path}}/cut-off"),
    "admin-tools": Picture(f"{_ADMIN}/tools"),
    "admin-mcp-servers": Picture(f"{_ADMIN}/tools/servers"),
    "admin-mcp-server": Picture(f"{_ADMIN}/tools/servers/{{server}}"),
    "admin-mcp-server-removal": Picture(f"{_ADMIN}/tools/servers/{{server}}/remove"),
    "admin-imports": Picture(f"{_ADMIN}/tools/imports"),
    "admin-import": Picture(_IMPORT),
    "admin-policies": Picture(f"{_ADMIN}/policies"),
    "admin-revocations": Picture(f"{_ADMIN}/revocations"),
    "admin-keys": Picture(f"{_ADMIN}/keys"),
    "admin-webhooks": Picture(f"{_ADMIN}/webhooks"),
    "admin-webhook": Picture(f"{_ADMIN}/webhooks/{{endpoint}}"),
    "admin-settings": Picture(f"{_ADMIN}/settings"),
    "admin-activity": Picture(f"{_ADMIN}/activity"),
}
# Shown after a form is sent: `screenshots` draws the picture there.
AFTERWARDS: Final = ("first-run", "answered", "confirm", "deleted")
FURNISHED: Final = (  # pages that need only the showcase
    "home", "accounts", "account", "connect", "agents", "agent", "cut-off", "approval", "approvals", "activity",
    "person", "notifications", "first-steps", "device", "admin-providers", "admin-provider", "admin-people",
)  # fmt: skip
WITHOUT: Final[Mapping[str, str]] = {  # route -> why it has no picture
    "/static/{path:path}": "files",
    "/sign-in/local": "signs in and leads on",
    "/sign-in/openid/{name}": "leads to the company's sign-in",
    "/sign-in/openid/{name}/callback": "signs in and leads on",
    "/connect/callback/{provider}": "leads on",
    "/account/data": "a file",
    "/activity/new": "rows for the page of activity",
    "/activity/export": "a file",
    f"{_ADMIN}/activity/new": "rows for the page of activity",
    f"{_ADMIN}/activity/export": "a file",
    f"{_ADMIN}/activity/{{sequence}}/proof": "a file",
    f"{_ADMIN}/revocations/{{id}}/receipt": "a file",
    f"{_ADMIN}/revocations/agents/{{id}}/receipt": "a file",
}


def names_of(shown: Showcase) -> dict[str, str]:
    """The placeholder values in the URLs of a person's own pages."""
    return {
        "connection": shown.accounts[0].id,
        "client": shown.agents[0].id,
        "approval": shown.questions[0].id,
        "provider": "slack",
    }


def paths_of(room: Room, shown: Showcase) -> dict[str, str]:
    """Name of a picture -> URL, for the pages that need only the showcase."""
    names = names_of(shown)
    return {name: PICTURES[name].path_of(names) for name in FURNISHED}
