"""The activity as a person sees it: others' events by filter, export, and live feed; names with code; metrics."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest

from tests.attacks.administration.attack_administration import id_of, someone
from tests.attacks.attack_races import POST
from tests.attacks.portal.attack_people import LOOPBACK
from tests.attacks.target import PASSWORD, Target
from tests.support.person import Person
from tests.support.processes import Place, free_port

EXPORTS = ("/activity/export?format=csv", "/activity/export?format=jsonl", "/account/data")


async def victims(target: Target) -> dict[str, str]:
    """Ids that occur only in alice's activity."""
    if not isinstance(found := target.kept.get("alices"), dict):
        agent = await target.agent(target.alice)
        await target.call(agent, "slack_post", POST)
        accounts = {
            one["provider"]: one["id"] for one in (await target.alice.http.get("/account/data")).json()["accounts"]
        }
        found = {"agent": agent.client_id, "account": str(accounts["slack"])}
        found["person"] = await id_of(target.alice)
        target.kept["alices"] = found
    return {str(name): str(one) for name, one in found.items()}


PLACES = ("/activity", "/activity/new?after=0", "/activity/export?format=csv", "/activity/export?format=jsonl")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "name", ["agent", "account", "person", "user", "user_id", "tenant", "before", "after", "client_id"]
)
async def test_no_filter_shows_what_happened_to_somebody_else(target: Target, place: str, name: str) -> None:
    theirs = await victims(target)
    person = await target.browser("mallory")
    join = "&" if "?" in place else "?"
    for wanted in (theirs.get(name, theirs["person"]), "default", "0", "999999999"):
        answer = await person.http.get(f"{place}{join}{name}={quote(wanted, safe='')}")
        assert answer.status_code in {200, 400}, answer.text[:200]
        shown = answer.text.replace(f"{name}={wanted}", "").replace(f'value="{wanted}"', "")
        for one in theirs.values():
            assert one not in shown
        assert "alice" not in shown


@pytest.mark.parametrize("place", [*EXPORTS, "/activity/new?after=0", "/"])
async def test_what_happened_is_for_its_person_who_is_signed_in(target: Target, place: str) -> None:
    stranger = await target.browser()
    for headers in ({}, {"origin": target.url}, {"authorization": "Bearer x"}):
        answer = await stranger.http.get(place, headers=headers)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/sign-in")
    agent = await target.agent(target.mallory)
    answer = await target.http.get(place, headers=agent.headers)
    assert answer.status_code == 303


@pytest.mark.parametrize("place", [*EXPORTS, "/activity/new?after=0"])
async def test_another_site_reads_nothing_of_it(target: Target, place: str) -> None:
    person = await target.browser("mallory")
    answer = await person.http.get(place, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    fine = await person.http.get(place)
    assert "access-control-allow-origin" not in fine.headers
    assert "no-store" in fine.headers["cache-control"]
    assert fine.headers["x-content-type-options"] == "nosniff"
    if "export" in place or "data" in place:
        assert fine.headers["content-disposition"].startswith("attachment")


async def test_the_file_about_a_person_holds_no_secret_and_nobody_else(target: Target) -> None:
    user_id, person = await someone(target)
    agent = await target.agent(person)
    text = (await person.http.get("/account/data")).text
    content = json.loads(text)
    assert content["user"]["id"] == user_id
    assert agent.client_id in text
    for one in (agent.token, agent.refresh or "x" * 99, *(each.value or "x" * 99 for each in person.http.cookies.jar)):
        assert one not in text
    assert "argon2" not in text
    for one in (await victims(target)).values():
        assert one not in text


FORMULAS = (
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(1)",
    "＝1+1",
    "＋1",
    "－1",
    "＠x",
    '=HYPERLINK("http://evil.example")',
)


@pytest.mark.parametrize("name", FORMULAS)
async def test_a_name_is_no_formula_in_a_spreadsheet(target: Target, name: str) -> None:
    _, person = await someone(target)
    client = str((await target.register(client_name=name))["client_id"])
    await target.agent(person, client=client)
    answer = await person.http.get("/activity/export?format=csv")
    rows = list(csv.reader(io.StringIO(answer.text)))
    cells = [cell for row in rows for cell in row]
    assert any(name.strip() in cell for cell in cells)
    assert not [cell for cell in cells if cell[:1] in {"=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n"}]


MARKUP = (
    '"><script>alert(1)</script>',
    "<img src=x onerror=alert(1)>",
    "</title><b>",
    "{{ 7*7 }}",
    "javascript:alert(1)",
)


@pytest.mark.parametrize("name", MARKUP)
async def test_a_name_is_no_markup_on_the_map_the_story_or_the_pages_of_admins(target: Target, name: str) -> None:
    _, person = await someone(target)
    await target.connect(person, "slack", account="alice")
    client = str((await target.register(client_name=name, redirect_uris=[LOOPBACK]))["client_id"])
    await target.agent(person, client=client, redirect_uri=LOOPBACK)
    for path in ("/", "/activity", "/activity/new?after=0", "/agents", f"/agents/{client}", "/notifications"):
        page = (await person.open(path)).text
        assert "<script>" not in page, path
        assert "<img src=x" not in page
        assert ">49<" not in page
        assert 'href="javascript' not in page
    for path in ("/administration/agents", f"/administration/agents/{client}", "/administration/activity"):
        page = (await target.alice.open(path)).text
        assert "<script>" not in page, path
        assert "<img src=x" not in page


ODD = (
    "format=", "format=xml", "format=csv%0d%0aset-cookie:x=y", "format=csv&format=jsonl", "from=0000-00-00",
    "to=9999-12-31",
    "zone=../../../etc/passwd", "zone=%00", "zone=" + "x" * 3000, "from=-1", "outcome=%27", "tool=%25",
    "tool=" + "%" * 50,
    "tool=a%5c%25", "before=-1", "before=1e9", "before=" + "9" * 400, "after=-1", "agent=%00", "account=%ed%a0%80",
)  # fmt: skip


@pytest.mark.parametrize("query", ODD)
@pytest.mark.parametrize("place", ["/activity", "/activity/new", "/activity/export"])
async def test_an_odd_filter_is_answered_in_words_or_means_nothing(target: Target, place: str, query: str) -> None:
    more = "" if query.startswith("format") or place != "/activity/export" else "&format=csv"
    answer = await target.mallory.http.get(f"{place}?{query}{more}")
    assert answer.status_code in {200, 400}, answer.status_code
    assert "set-cookie" not in answer.headers
    assert "traceback" not in answer.text.lower()


async def test_looking_for_what_is_new_does_not_keep_a_session_alive_or_hold_others_up(target: Target) -> None:
    person = await target.browser("mallory")
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(person.http.get("/activity/new?after=0") for _ in range(60)))
    started = loop.time()
    assert (await target.alice.http.get("/sign-in")).status_code in {200, 303}
    assert loop.time() - started < 5


# Metrics: a separate listener without a token


@pytest.fixture(scope="module")
async def figures(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[tuple[Place, int]]:
    """A vault that serves its metrics next to its pages; the metrics port."""
    place, port = Place(tmp_path_factory.mktemp("figures"), free_port()), free_port()
    place.configure()
    config = Path(place.data / "config.toml")
    config.write_text(f'{config.read_text()}[telemetry]\nprometheus = "127.0.0.1:{port}"\n', encoding="utf-8")
    async with place.serve():
        code, _, err = await place.run(
            "users", "add", "mallory-canary", "--admin", "--password-stdin", feed=PASSWORD + "\n"
        )
        assert code == 0, err
        yield place, port


async def test_figures_name_nobody(figures: tuple[Place, int]) -> None:
    place, port = figures
    async with Person(place.url) as person:
        await person.sign_in("mallory-canary", "wrong password of some length")
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
        assert "token_vault" in text
        assert "canary" not in text


@pytest.mark.parametrize(
    "sent", [b"", b"GET /metrics HTTP/1.1\r\n", b"POST /metrics HTTP/1.1\r\ncontent-length: 9\r\n\r\n"]
)
async def test_silent_connections_to_the_figures_end_and_leave_the_pages_alone(
    figures: tuple[Place, int], sent: bytes
) -> None:
    """Open 1,100 of them: everyone else depends on the same process's open files and threads."""
    place, port = figures
    held: list[asyncio.StreamWriter] = []
    try:
        for _ in range(1100):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            held.append(writer)
            if sent:
                writer.write(sent)
        async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
            assert (await http.get(f"{place.url}/healthz")).status_code == 200
        async with asyncio.timeout(45):  # the last one ends by itself
            await reader.read()
    finally:
        for writer in held:
            writer.transport.abort()


async def test_the_figures_take_one_path_and_two_methods(figures: tuple[Place, int]) -> None:
    _, port = figures
    async with httpx2.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        assert (await http.get("/metrics")).status_code == 200
        for path in ("/", "/metrics/../../etc/passwd", "/connections", "/healthz", "/metricsx"):
            assert (await http.get(path)).status_code == 404, path
        for method in ("POST", "PUT", "DELETE", "TRACE"):
            assert (await http.request(method, "/metrics")).status_code == 405
