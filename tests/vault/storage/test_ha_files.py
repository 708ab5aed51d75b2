"""The configuration files for operators are complete: `make ha` starts what they describe, and Debian accepts them."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.ha import pieces
from tests.support.processes import free_port

NAMES = ("etcd", "peer", "pg1", "pg1-rest", "pg2", "pg2-rest", "haproxy", "pgbouncer")
PASSWORDS = {"postgres": "one", "replicator": "two", "vault": "three"}


def write(folder: Path) -> dict[str, int]:
    ports = {name: free_port() for name in NAMES}
    for name in ("pg1", "pg2"):
        pieces._node(folder, name, ports, PASSWORDS)
    pieces._haproxy(folder, ports)
    pieces._pgbouncer(folder, ports, PASSWORDS)
    return ports


def test_every_address_folder_and_password_of_the_page_is_replaced(tmp_path: Path) -> None:
    ports = write(tmp_path)
    for path in tmp_path.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "10.0.0." not in text
        assert "-PASSWORD" not in text
    assert f"127.0.0.1:{ports['haproxy']}" in (tmp_path / "haproxy.cfg").read_text(encoding="utf-8")
    with pytest.raises(AssertionError, match="is not in the file"):
        pieces.put("bind 10.0.0.10:5000", [("10.0.0.99", "")])


async def test_haproxy_accepts_its_file(tmp_path: Path) -> None:
    program = shutil.which("haproxy", path=pieces.PATH)
    if program is None:
        pytest.skip("HAProxy tests need: apt-get install haproxy")
    write(tmp_path)
    for change, accepted in ((("", ""), True), (("mode tcp", "mode nonsense"), False)):
        path = tmp_path / "haproxy.cfg"
        path.write_text(path.read_text(encoding="utf-8").replace(*change) if change[0] else path.read_text())
        process = await asyncio.create_subprocess_exec(
            program, "-c", "-f", str(path), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(30):
            assert (await process.wait() == 0) is accepted
