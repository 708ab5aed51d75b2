"""Origin, Host and body size are checked before anything else on every route; and CORS for allowed origins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from server.http.guards import GuardRules, refusal
from server.settings import load_settings
from tests.support.rooms.mcp_room import Room, modern, modern_headers, room

ROUTES = ("/mcp", "/mcp/", "/sse", "/messages/", "/authorize", "/connections", "/healthz")
FOREIGN = (
    "null",
    "https://evil.example",
    "http://evil.example",
    "http://localhost.evil.example",
    "http://localhost:1",
    "https://localhost:{port}",
    "http://localhost:{port}.evil.example",
    "file://",
)


CLOSED = (
    "/docs", "/redoc", "/openapi.json", "/swagger.json", "/metrics", "/debug", "/debug/pprof", "/console", "/status",
    "/server-status", "/actuator", "/admin/", "/graphql", "/trace", "/.env", "/.git/config", "/healthz/details",
)  # fmt: skip


@pytest.mark.requirement("S-150")
@pytest.mark.parametrize("origin", FOREIGN)
async def test_foreign_origin_is_refused_on_every_route_before_the_token_is_looked_at(place: Room, origin: str) -> None:
    agent = await place.agent()
    value = origin.replace("{port}", place.host.rpartition(":")[2])
    async with place.http(agent) as http:
        for route in ROUTES:
            answer = await http.post(route, headers={"origin": value}, content=b"not even json")
            assert answer.status_code == 403, (route, answer.status_code)
            assert "www-authenticate" not in answer.headers


@pytest.mark.requirement("S-150")
async def test_own_origin_and_no_origin_pass(place: Room) -> None:
    async with place.http(await place.agent()) as http:
        for origin in (place.url, None):
            headers = modern_headers("tools/list") | ({} if origin is None else {"origin": origin})
            answer = await http.post("/mcp", json=modern("tools/list"), headers=headers)
            assert answer.status_code == 200


@pytest.mark.requirement("S-128")
async def test_no_description_figure_or_debugger_is_served_and_no_answer_names_its_program(place: Room) -> None:
    agent = await place.agent()
    for http in (place.http(), place.http(agent)):
        async with http:
            assert (await http.get("/healthz")).status_code == 200
            for path in CLOSED:
                assert (await http.get(path)).status_code == 404, path
            for path in (
                "/healthz",
                "/docs",
                "/mcp",
                "/token",
                "/connections",
                "/.well-known/oauth-authorization-server",
            ):
                answer = await http.get(path)
                assert not {"server", "x-powered-by", "via"} & set(answer.headers), path
                shown = answer.text.lower()
                assert not [word for word in ("uvicorn", "starlette", "traceback", "python/") if word in shown], path


async def test_own_form_without_referrer_has_a_null_origin_and_passes_outside_of_mcp_only(place: Room) -> None:
    headers = {"origin": "null", "sec-fetch-site": "same-origin"}
    async with place.http() as http:
        assert (await http.get("/healthz", headers=headers)).status_code == 200
        assert (await http.get("/healthz", headers=headers | {"sec-fetch-site": "cross-site"})).status_code == 403
        assert (await http.post("/mcp", headers=headers)).status_code == 403


@pytest.mark.requirement("S-151")
@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "localhost.evil.example", ""])
async def test_unknown_host_is_refused_on_every_route(place: Room, host: str) -> None:
    async with place.http() as http:
        for route in ROUTES:
            sent = host.replace("{port}", place.host.rpartition(":")[2])
            refused = await http.get(route, headers={"host": sent})
            assert refused.status_code == 421
            assert refused.headers["content-security-policy"] == "sandbox"


@pytest.mark.requirement("S-151")
async def test_loopback_names_are_known_hosts(place: Room) -> None:
    port = place.host.rpartition(":")[2]
    async with place.http() as http:
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", f"LOCALHOST:{port}"):
            assert (await http.get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.requirement("S-151")
def test_elsewhere_only_the_public_host_and_configured_ones_are_known() -> None:
    plain = GuardRules.from_settings(load_settings(overrides={"server": {"public_url": "https://vault.example"}}))
    assert plain.allows_host("vault.example")
    assert plain.allows_host("vault.example:443")
    for host in ("localhost:8765", "127.0.0.1:8765", "10.0.0.7", "vault.example:80"):
        assert not plain.allows_host(host)
    added = {"server": {"public_url": "https://vault.example", "allowed_hosts": ["10.0.0.7"]}}
    assert GuardRules.from_settings(load_settings(overrides=added)).allows_host("10.0.0.7")


@pytest.mark.requirement("S-151")
@pytest.mark.parametrize(
    ("public_url", "path", "is_refused"),
    [
        ("https://vault.example", "/readyz", False),
        ("https://vault.example", "/healthz", True),
        ("http://localhost:8765", "/readyz", True),
    ],
)
def test_a_load_balancer_may_ask_by_address_whether_a_public_vault_is_ready(
    public_url: str, path: str, is_refused: bool
) -> None:
    rules = GuardRules.from_settings(load_settings(overrides={"server": {"public_url": public_url}}))
    assert (refusal(path, {b"host": [b"10.0.0.7:8765"]}, rules) is not None) is is_refused


@pytest.mark.requirement("S-151")
def test_a_foreign_page_may_not_ask_whether_a_vault_is_ready() -> None:
    rules = GuardRules.from_settings(load_settings(overrides={"server": {"public_url": "https://vault.example"}}))
    asked = {b"host": [b"10.0.0.7:8765"], b"origin": [b"https://evil.example"]}
    assert refusal("/readyz", asked, rules) is not None


@pytest.mark.requirement("S-156")
async def test_announced_ten_gigabytes_are_refused_before_a_byte_is_read(place: Room) -> None:
    host, port = "127.0.0.1", int(place.host.rpartition(":")[2])
    for path in ("/mcp", "/messages/", "/token"):
        reader, writer = await asyncio.open_connection(host, port)
        head = f"POST {path} HTTP/1.1\r\nHost: {place.host}\r\nContent-Length: 10000000000\r\n\r\n"
        writer.write(head.encode())
        async with asyncio.timeout(30):
            assert b" 413 " in await reader.readline()
        writer.close()


@pytest.mark.requirement("S-156")
async def test_chunked_body_is_cut_off_at_four_megabytes_and_one_below_passes(place: Room) -> None:
    async def chunks(megabytes: int) -> AsyncGenerator[bytes]:
        for _ in range(megabytes):
            yield b" " * 1_000_000

    async with place.http(await place.agent()) as http:
        big = await http.post("/mcp", content=chunks(32), headers=modern_headers("tools/list"))
        assert big.status_code == 413
        small = await http.post("/mcp", content=chunks(3), headers=modern_headers("tools/list"))
        assert small.status_code == 400  # it was read to its end, and isn't JSON


async def test_allowed_origin_gets_cors_answers_also_on_challenges(tmp_path: Path) -> None:
    app_origin = "http://localhost:6274"
    async with room(tmp_path, server={"allowed_origins": [app_origin]}) as place, place.http() as http:
        preflight = await http.request(
            "OPTIONS",
            "/mcp",
            headers={
                "origin": app_origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,mcp-protocol-version",
            },
        )
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == app_origin
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        challenge = await http.post("/mcp", headers={"origin": app_origin})
        assert challenge.status_code == 401
        assert challenge.headers["access-control-allow-origin"] == app_origin
        assert "WWW-Authenticate" in challenge.headers["access-control-expose-headers"]
