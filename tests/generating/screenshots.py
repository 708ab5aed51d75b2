"""Pictures of the pages with much on them: `make screenshots` writes them into docs/, as small WebP files."""

from __future__ import annotations

import asyncio
import base64
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Browser, Page

from server.remote import servers
from tests.generating.showcase import Showcase, furnish, provider_settings, settle_in
from tests.mcp.remote.remote_room import RemoteRoom
from tests.support.chromium import running_chromium
from tests.support.doubles.mcp_double import RemoteSite, running_site
from tests.support.harness import PASSWORD
from tests.support.rooms.mcp_room import Room as McpRoom
from tests.support.rooms.portal_room import Room, running_room

TARGET: Final = Path(__file__).parents[2] / "docs" / "screenshots"
DESKTOP: Final = {"width": 1280, "height": 800}
PHONE: Final = {"width": 390, "height": 844}
IN_BOTH: Final = (
    "home",
    "accounts",
    "agents",
    "agent",
    "approval",
    "consent",
    "sign-in",
)  # the others are drawn light only
KEYED: Final = "stripe"  # a service that people enter a key of
PRESSED: Final = {"credential": re.compile("^Enter")}  # on the way to a page
SERVER: Final = "design"
ADMINISTRATION: Final = (
    "groups",
    "agents",
    "tools",
    "policies",
    "revocations",
    "keys",
    "webhooks",
    "settings",
    "activity",
)
TOOLS: Final[list[dict[str, Any]]] = [
    {
        "name": name,
        "description": description,
        "inputSchema": {"type": "object", "properties": {one: {"type": "string"} for one in arguments}},
        "annotations": {"readOnlyHint": reads},
    }
    for name, description, arguments, reads in (
        ("list_files", "List the design files of a project.", ("project",), True),
        ("export_frame", "Export a frame as PNG.", ("file", "frame"), True),
        ("add_comment", "Add a comment to a frame.", ("file", "frame", "text"), False),
        ("delete_file", "Delete a design file.", ("file",), False),
    )
]
# encodes a PNG as WebP: Chromium has the encoder, so no library is needed
_ENCODE: Final = """async ([png, quality]) => {
  const image = new Image(); image.src = 'data:image/png;base64,' + png; await image.decode();
  const canvas = document.createElement('canvas'); canvas.width = image.width; canvas.height = image.height;
  canvas.getContext('2d').drawImage(image, 0, 0);
  return canvas.toDataURL('image/webp', quality).split(',')[1]; }"""


def paths_of(room: Room, shown: Showcase) -> dict[str, str]:
    """Name of a picture -> path of its page."""
    return {
        "home": "/",
        "accounts": "/connections",
        "account": f"/connections/{shown.accounts[0].id}",
        "agents": "/agents",
        "agent": f"/agents/{shown.agents[0].id}",
        "cut-off": f"/agents/{shown.agents[0].id}/cut-off",
        "approval": f"/approvals/{shown.questions[0].id}",
        "approvals": "/approvals",
        "activity": "/activity",
        "person": "/account",
        "notifications": "/notifications",
        "connect": "/connections/connect?provider=google",
        "first-steps": "/first-run",
        "device": "/device",
        "admin-providers": "/administration/providers",
        "admin-provider": "/administration/providers/slack",
        "admin-people": "/administration/people",
    }


async def _connect_server(room: Room, site: RemoteSite) -> None:
    """An MCP server behind the vault, whose tools wait for a review."""
    double = site.add(SERVER, tools=TOOLS)
    person = await room.signed_in("alice")
    place = RemoteRoom(McpRoom(room.vault, room.simulator), site, person)
    await servers.add(place.operator, servers.NewServer(SERVER, double.url, title="Design files"))
    await place.look(SERVER, await place.room.agent(client_name="Raycast"))


async def take(folder: Path, *, only: frozenset[str] = frozenset()) -> None:
    """Every page on a desktop and a phone, the main ones also in the dark."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        overrides = {"providers": provider_settings() | {KEYED: {}}}
        async with (
            running_chromium() as browser,
            running_site() as site,
            running_room(Path(data) / "vault", overrides=overrides) as room,
        ):
            user = await room.user("alice")
            await _connect_server(room, site)
            shown = await furnish(room, user)
            await settle_in(room, shown)
            for name in ("bob", "carol", "dora"):
                await room.user(name)
            asking = await room.agent(name="Windsurf", redirect_uris=("http://127.0.0.1:33418/callback",))
            link = await room.link(user, shown.agents[3])
            paths = paths_of(room, shown) | {
                "consent": room.authorize_path(asking),
                "link": link.url.removeprefix(room.url),
                "credential": f"/connections/connect?provider={KEYED}",
                "admin-mcp-servers": "/administration/tools/servers",
                "admin-mcp-server": f"/administration/tools/servers/{SERVER}",
                "admin": "/administration",
            }
            paths |= {f"admin-{one}": f"/administration/{one}" for one in ADMINISTRATION}
            wanted = {name: path for name, path in paths.items() if not only or name in only}
            for size, viewport in (("desktop", DESKTOP), ("phone", PHONE)):
                for scheme in ("light", "dark"):
                    drawn = {name: path for name, path in wanted.items() if scheme == "light" or name in IN_BOTH}
                    await _round(browser, room, folder, drawn, size=size, scheme=scheme, viewport=viewport)


async def _round(
    browser: Browser,
    room: Room,
    folder: Path,
    paths: dict[str, str],
    *,
    size: str,
    scheme: str,
    viewport: dict[str, int],
) -> None:
    context = await browser.new_context(
        viewport={"width": viewport["width"], "height": viewport["height"]},
        color_scheme="dark" if scheme == "dark" else "light",
        timezone_id="Europe/Berlin",
        locale="en-US",
    )
    encoder = await context.new_page()
    page = await context.new_page()
    await page.goto(f"{room.url}/sign-in")
    await _write(encoder, page, folder / f"sign-in-{size}-{scheme}.webp")
    await page.get_by_label("Name").fill("alice")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await page.wait_for_url(f"{room.url}/")
    for name, path in paths.items():
        await page.goto(f"{room.url}{path}")
        if name in PRESSED:
            await page.get_by_role("button", name=PRESSED[name]).click()
            await page.wait_for_load_state()
        await _write(encoder, page, folder / f"{name}-{size}-{scheme}.webp")
    await context.close()


async def _write(encoder: Page, page: Page, file: Path) -> None:
    png = base64.b64encode(await page.screenshot(full_page=False)).decode()
    file.write_bytes(base64.b64decode(await encoder.evaluate(_ENCODE, [png, 0.65])))


def main() -> None:
    asyncio.run(take(TARGET, only=frozenset(sys.argv[1:])))
    total = sum(file.stat().st_size for file in TARGET.glob("*.webp"))
    print(f"{TARGET}: {len(list(TARGET.glob('*.webp')))} pictures, {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
