"""A program that runs a vault in its own network namespace, with a name server that answers only for providers.

`unshare --user --map-root-user --net --mount python -m tests.support.network.silent_names FOLDER` prints as JSON how
lookups of providers went while strangers made the vault look up other names. Only in a namespace can a test use the
port of a name server.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import httpx2
from joserfc import jwt
from joserfc.jwk import ECKey

from providers.outbound.addresses import AddressPolicy
from providers.outbound.messages import HttpError, OutboundRequest
from tests.support.harness import free_socket, running_vault

ALIVE = b"\x04live\x07example\x00"
STRANGERS = 60
PROVIDERS = 8


class Names(asyncio.DatagramProtocol):
    """Answers for *.live.example with 127.0.0.1, and for nothing else."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport
        self.unanswered = 0

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(b"\x00", 12) + 1
        question = data[12 : end + 4]
        if not question[:-4].endswith(ALIVE):
            self.unanswered += 1
            return
        is_v4 = question[-4:-2] == b"\x00\x01"
        record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x7f\x00\x00\x01" if is_v4 else b""
        counts = b"\x00\x01" + (b"\x00\x01" if is_v4 else b"\x00\x00") + b"\x00\x00\x00\x00"
        self.transport.sendto(data[:2] + b"\x81\x80" + counts + question + record, addr)


def raise_loopback() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14s", b"lo", 0x41, b""))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING


async def main(folder: Path) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    _, names = await loop.create_datagram_endpoint(Names, local_addr=("127.0.0.1", 53))
    reached = 0

    def reach(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal reached
        reached += 1
        writer.close()

    provider = await asyncio.start_server(reach, "127.0.0.1", 0)
    port = provider.sockets[0].getsockname()[1]
    overrides = {"server": {"trusted_proxies": ["127.0.0.1"]}}
    key = ECKey.generate_key("P-256")
    async with (
        running_vault(folder, overrides=overrides, listening=free_socket()) as vault,
        httpx2.AsyncClient(base_url=vault.url, timeout=60) as http,
    ):

        async def stranger(number: int) -> int:
            headers = {"X-Forwarded-For": f"192.0.2.{number}"}
            metadata = {
                "redirect_uris": ["http://127.0.0.1:33418/callback"],
                "token_endpoint_auth_method": "private_key_jwt",
                "jwks_uri": f"https://n{number}.dead.example/jwks",
            }
            client = (await http.post("/register", json=metadata, headers=headers)).json()["client_id"]
            claims = {"iss": client, "sub": client, "aud": vault.url, "jti": "1", "exp": int(time.time()) + 60}
            form = {
                "grant_type": "refresh_token",
                "refresh_token": "x",
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                "client_assertion": jwt.encode({"alg": "ES256"}, claims, key),
            }
            return (await http.post("/token", data=form, headers=headers)).status_code

        async def call(number: int) -> str:
            request = OutboundRequest(
                "GET",
                f"https://p{number}.live.example:{port}/",
                policy=AddressPolicy(allow_loopback=True),
                peer=f"p{number}",
            )
            try:
                await vault.deployment.http.send(request)
            except HttpError as error:
                return type(error).__name__
            return "answered"

        strangers = [asyncio.create_task(stranger(number)) for number in range(STRANGERS)]
        async with asyncio.timeout(30):
            while names.unanswered < 20:
                await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)
        started = loop.time()
        await asyncio.gather(*(call(number) for number in range(PROVIDERS)))
        took = loop.time() - started
        statuses = await asyncio.gather(*strangers)
    provider.close()
    return {"reached": reached, "seconds": took, "strangers": sorted(set(statuses)), "unanswered": names.unanswered}


if __name__ == "__main__":
    here = Path(sys.argv[1])
    raise_loopback()
    (here / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", str(here / "resolv.conf"), "/etc/resolv.conf"], check=True)
    print(json.dumps(asyncio.run(main(here / "data"))), flush=True)
