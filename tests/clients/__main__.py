"""`make clients`: a week of every client against a fresh vault; with `URL=...`, the critical moments at any server."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2

from tests.clients.installation import Installation, Server, table
from tests.clients.local import play_here
from tests.clients.week import play_now

PATIENCE = 300  # seconds for a person to sign in


async def in_a_browser(url: str) -> dict[str, str]:
    """Show the address to the person at the terminal and wait for the callback on its loopback port."""
    redirect = urlsplit(parse_qs(urlsplit(url).query)["redirect_uri"][0])
    arrived: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readline()).decode("latin-1").split(" ")[1]
        found = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 23\r\nconnection: close\r\n\r\nYou can close this page")
        await writer.drain()
        writer.close()
        if "state" in found and not arrived.done():
            arrived.set_result(found)

    async with await asyncio.start_server(answer, "127.0.0.1", redirect.port):
        print(f"Open in a browser and sign in:\n{url}\n", flush=True)
        return await asyncio.wait_for(arrived, PATIENCE)


async def elsewhere(url: str, rounds: int) -> list[Installation]:
    async with httpx2.AsyncClient(timeout=60) as http:
        server = await Server.discover(http, url)
        return await play_now(server, http, sign_in=in_a_browser, now=lambda: int(time.time()), rounds=rounds)


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("--url", help="address of an MCP server whose authorization server is played with")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5, help="with --url: refreshes of every process at once")
    chosen = parser.parse_args()
    if chosen.url:
        playing = await elsewhere(chosen.url, chosen.rounds)
    else:
        with tempfile.TemporaryDirectory() as folder:
            playing, clicks = await play_here(Path(folder) / "data", days=chosen.days)
        print(f"{chosen.days} days; allowed anew {clicks.allowed}, again {clicks.again}, silently {clicks.silent}")
    print(table(playing))
    failures = [failure for one in playing for failure in one.figures.failures]
    print("\n".join(failures))
    return 1 if failures or any(one.figures.unwanted for one in playing) else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
