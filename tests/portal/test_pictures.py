"""`make screenshots` draws every page of the portal's table, or the table says why not; every picture exists."""

from __future__ import annotations

import re

import pytest
from starlette.routing import Match, Route

from server.portal.site import page_routes
from tests.generating.images.pictures import AFTERWARDS, PICTURES, WITHOUT, Picture
from tests.generating.images.screenshots import SCHEMES, SIZES, TARGET
from tests.support.rooms.portal_room import Room


@pytest.fixture(scope="module")
def routes(room: Room) -> list[Route]:
    """The pages for reading, in the order in which they are matched."""
    return [one for one in page_routes(room.deployment) if "GET" in (one.methods or ())]


def test_every_page_has_a_picture_or_a_reason(routes: list[Route]) -> None:
    drawn = {one.route for one in PICTURES.values()}
    assert {one.path for one in routes} - drawn == WITHOUT.keys()


@pytest.mark.parametrize("name", [name for name, one in PICTURES.items() if not (one.press or one.path[:1] == "{")])
def test_a_picture_is_of_the_page_that_it_names(name: str, routes: list[Route]) -> None:
    picture: Picture = PICTURES[name]
    path = re.sub(r"\{\w+\}", "x", (picture.path or picture.route).replace(":path}", "}")).partition("?")[0]
    scope = {"type": "http", "method": "GET", "path": path}
    found = next(one for one in routes if one.matches(scope)[0] is Match.FULL)
    assert found.path == picture.route


def test_every_picture_is_there_and_no_other() -> None:
    wanted = {
        f"{name}-{size}-{scheme}"
        for name, picture in PICTURES.items()
        for size in SIZES
        for scheme in SCHEMES
        if scheme == "light" or picture.is_main
    } | {f"{name}-{size}-light" for name in AFTERWARDS for size in SIZES}
    assert {one.stem for one in TARGET.glob("*.webp")} == wanted
