"""Pictures of pages with much content: `make screenshots` writes them into docs/ as small WebP files."""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from playwright.async_api import Browser, Page, ViewportSize

from server.remote import servers
from tests.generating.images.pictures import KEYED, PICTURES, names_of
from tests.generating.images.showcase import furnish, provider_settings, settle_in
from tests.generating.images.showcase_office import API, SETTINGS, STORED, open_office
from tests.mcp.remote.remote_room import RemoteRoom
from tests.support.chromium import running_chromium
from tests.support.doubles.mcp_double import RemoteSite, running_site
from tests.support.harness import PASSWORD
from tests.support.rooms.mcp_room import Room as McpRoom
from tests.support.rooms.portal_room import Room, running_room
from vault import users
from vault.records import Role

TARGET: Final = Path(__file__).parents[3] / "docs" / "screenshots"
SIZES: Final[Mapping[str, ViewportSize]] = {
    "desktop": {"width": 1280, "height": 800},
    "phone": {"width": 390, "height": 844},
}
Scheme = Literal["light", "dark"]
SCHEMES: Final[tuple[Scheme, ...]] = ("light", "dark")
SERVER: Final = "design"
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


async def _connect_server(room: Room, site: RemoteSite) -> None:
    """Connect an MCP server behind the vault, whose tools wait for a review."""
    double = site.add(SERVER, tools=TOOLS)
    person = await room.signed_in("alice")
    place = RemoteRoom(McpRoom(room.vault, room.simulator), site, person)
    await servers.add(place.operator, servers.NewServer(SERVER, double.url, title="Design files"))
    await place.look(SERVER, await place.room.agent(client_name="Raycast"))


@dataclass(frozen=True, slots=True)
class Studio:
    """A browser, the vault whose pages it draws, and the folder for pictures; an empty `wanted` means all of them."""

    browser: Browser
    room: Room
    folder: Path
    wanted: frozenset[str]

    def wants(self, name: str) -> bool:
        return not self.wanted or name in self.wanted

    @asynccontextmanager
    async def tab(self, who: str = "", *, size: str = "desktop", scheme: Scheme = "light") -> AsyncGenerator[Page]:
        """A page in a new profile where this person just signed in."""
        context = await self.browser.new_context(
            viewport=SIZES[size], color_scheme=scheme, timezone_id="Europe/Berlin", locale="en-US"
        )
        page = await context.new_page()
        if who:
            await page.goto(f"{self.room.url}/sign-in")
            await page.get_by_label("Name").fill(who)
            await page.get_by_label("Password").fill(PASSWORD)
            await page.get_by_role("button", name="Sign in", exact=True).click()
            await page.wait_for_url(f"{self.room.url}/")
        yield page
        await context.close()

    async def draw(self, page: Page, name: str, *, size: str, scheme: Scheme = "light") -> None:
        png = base64.b64encode(await page.screenshot(full_page=False)).decode()
        encoder = await page.context.new_page()
        encoded = base64.b64decode(await encoder.evaluate(_ENCODE, [png, 0.65]))
        await encoder.close()
        (self.folder / f"{name}-{size}-{scheme}.webp").write_bytes(encoded)

    async def draw_pages(self, names: Mapping[str, str]) -> None:
        """Draw every wanted page of the table, in its sizes and color schemes."""
        for is_open, size, scheme in itertools.product((True, False), SIZES, SCHEMES):
            drawn = [
                (name, picture)
                for name, picture in PICTURES.items()
                if picture.is_open is is_open and self.wants(name) and (scheme == "light" or picture.is_main)
            ]
            if not drawn:
                continue
            async with self.tab("" if is_open else "alice", size=size, scheme=scheme) as page:
                for name, picture in drawn:
                    await page.goto(f"{self.room.url}{picture.path_of(names)}")
                    if picture.press:
                        await page.get_by_role("button", name=re.compile(f"^{picture.press}")).click()
                        await page.wait_for_load_state()
                    await self.draw(page, name, size=size, scheme=scheme)

    async def draw_both(self, page: Page, name: str) -> None:
        """Draw a page that is shown only once, in both sizes without reloading it."""
        for size, viewport in SIZES.items():
            await page.set_viewport_size(viewport)
            await self.draw(page, name, size=size)

    async def draw_first_run(self) -> None:
        """Draw what the first person sees before there is an administrator."""
        deployment, alice = self.room.deployment, await self.room.user("alice")
        async with deployment.transaction() as transaction:
            await users.set_role(transaction, alice.id, Role.MEMBER)
        async with self.tab() as page:
            await page.goto(f"{self.room.url}/first-run")
            await self.draw_both(page, "first-run")
        async with deployment.transaction() as transaction:
            await users.set_role(transaction, alice.id, Role.OWNER)

    async def draw_answered(self, names: Mapping[str, str]) -> None:
        """Draw the page after an approval."""
        async with self.tab("alice") as page:
            await page.goto(f"{self.room.url}/approvals/{names['approval']}")
            await page.get_by_role("button", name="Approve once").click()
            await page.wait_for_load_state()
            await self.draw_both(page, "answered")

    async def draw_deleted(self) -> None:
        """Draw a deletion that asks to sign in again first, and the receipt of one."""
        async with self.tab("emre") as page:
            delete = f"{self.room.url}/account/delete"
            if self.wants("deleted"):
                await page.goto(delete)
                await page.get_by_role("textbox").fill("emre")
                await page.get_by_role("button", name="Delete").click()
                await page.wait_for_load_state()
                await self.draw_both(page, "deleted")
        async with self.tab("alice") as page:
            self.room.deployment.database.clock_offset += 3600
            await page.goto(delete)
            await self.draw_both(page, "confirm")


async def take(folder: Path, *, only: frozenset[str] = frozenset()) -> None:
    """Draw every page for desktop and phone, and the main pages also in dark mode."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data:
        overrides: dict[str, object] = {"providers": provider_settings() | {KEYED: {}}, **SETTINGS}
        async with (
            running_chromium() as browser,
            running_site() as site,
            running_room(Path(data) / "vault", overrides=overrides) as room,
        ):
            studio, user = Studio(browser, room, folder, only), await room.user("alice")
            if studio.wants("first-run"):
                await studio.draw_first_run()
            await _connect_server(room, site)
            shown = await furnish(room, user)
            await settle_in(room, shown)
            office = await open_office(room, shown)
            asking = await room.agent(name="Windsurf", redirect_uris=("http://127.0.0.1:33418/callback",))
            names = names_of(shown) | {
                "ticket": office.ticket,
                "receipt": office.receipt.id,
                "handle": (await room.link(user, shown.agents[3])).url.rpartition("/")[2],
                "request": office.waiting.id,
                "authorize": room.authorize_path(asking),
                "user": office.person.id,
                "group": office.group.id,
                "server": SERVER,
                "api": API,
                "askable": "Engineering",
                "stored": STORED,
                "endpoint": office.endpoint.id,
            }
            await studio.draw_pages(names)
            if studio.wants("answered"):
                await studio.draw_answered(names)
            if studio.wants("deleted") or studio.wants("confirm"):
                await studio.draw_deleted()


def main() -> None:
    asyncio.run(take(TARGET, only=frozenset(sys.argv[1:])))
    total = sum(file.stat().st_size for file in TARGET.glob("*.webp"))
    print(f"{TARGET}: {len(list(TARGET.glob('*.webp')))} pictures, {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
