"""etcd, two PostgreSQL servers under Patroni, HAProxy and PgBouncer: started, observed, and broken.

Their configuration is that of deploy/postgresql/, with its own addresses, folders and passwords. Everything
listens on 127.0.0.1, keeps its data in one temporary folder, and ends with the block; as root the programs run as
`postgres`.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx2
import psutil

from tests.chaos.world import ROOT
from tests.support.processes import free_port

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = ("etcd", "patroni", "patronictl", "haproxy", "pgbouncer")
APT = "apt-get install --no-install-recommends patroni python3-etcd etcd-server haproxy pgbouncer postgresql"
START = 40.0  # seconds for the whole cluster
DATABASES = ("hosts", "proxied", "pooled")  # one vault for each path to it


def missing_programs() -> list[str]:
    """The programs that aren't installed."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return lacking if _binaries() is not None else [*lacking, "postgresql"]


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


def shipped_file(name: str) -> str:
    """A file that ships for operators."""
    return (ROOT / "deploy/postgresql" / name).read_text(encoding="utf-8")


def put(text: str, changes: Sequence[tuple[str, str]]) -> str:
    """The text with each of these replaced; text that isn't there is an error."""
    for old, new in changes:
        assert old in text, f"{old!r} is not in the file of deploy/postgresql/"
        text = text.replace(old, new)
    return text


@dataclass
class Program:
    """One program in the foreground."""

    name: str
    arguments: tuple[str, ...]
    folder: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        user: dict[str, object] = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.arguments, cwd=self.folder, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                env={"PATH": PATH, "HOME": str(self.folder), "LANG": "C.UTF-8"}, **user,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


@dataclass
class Node:
    """A PostgreSQL server, and the Patroni that manages it."""

    name: str
    port: int
    rest: int
    data: Path
    patroni: Program

    def postgres(self) -> list[psutil.Process]:
        """The processes of the server, the postmaster first."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            postmaster = psutil.Process(pid)
            if str(self.data) not in " ".join(postmaster.cmdline()):
                return []
            return [postmaster, *postmaster.children(recursive=True)]
        except (OSError, IndexError, ValueError, psutil.Error):
            return []

    def signal_postgres(self, number: signal.Signals, *, whole: bool = True) -> None:
        for process in self.postgres()[: None if whole else 1]:
            with suppress(psutil.Error):
                process.send_signal(number)

    async def end(self) -> None:
        """End both, whatever their state; Patroni first, because it would restart the other."""
        await self.patroni.kill()
        for process in self.postgres():
            with suppress(psutil.Error):
                process.kill()


@dataclass
class Cluster:
    """The running pieces."""

    folder: Path
    etcd: Program
    nodes: list[Node]
    haproxy: Program
    pgbouncer: Program
    ports: dict[str, int]
    passwords: dict[str, str] = field(repr=False)
    http: httpx2.AsyncClient = field(repr=False)

    def url(self, database: str) -> str:
        """How a vault reaches this database: by all hosts, through HAProxy, or through PgBouncer and HAProxy."""
        places = {
            "hosts": ",".join(f"127.0.0.1:{node.port}" for node in self.nodes),
            "proxied": f"127.0.0.1:{self.ports['haproxy']}",
            "pooled": f"127.0.0.1:{self.ports['pgbouncer']}",
        }
        query = "?target_session_attrs=read-write" if database == "hosts" else ""
        return f"postgresql://vault:{self.passwords['vault']}@{places[database]}/{database}{query}"

    def owner_url(self, node: Node, database: str = "postgres") -> str:
        return f"postgresql://postgres:{self.passwords['postgres']}@127.0.0.1:{node.port}/{database}"

    async def members(self) -> dict[str, str]:
        """Name and role of each running or streaming member that Patroni knows."""
        for node in self.nodes:
            with suppress(httpx2.HTTPError):
                answer = await self.http.get(f"http://127.0.0.1:{node.rest}/cluster")
                return {
                    one["name"]: one["role"]
                    for one in answer.json()["members"]
                    if one["state"] in {"running", "streaming"}
                }
        return {}

    async def primary(self) -> Node:
        """The leader, as soon as there is one."""
        while True:
            roles = await self.members()
            found = [node for node in self.nodes if roles.get(node.name) == "leader"]
            if found:
                return found[0]
            await asyncio.sleep(0.2)

    async def healthy(self, *, within: float = START) -> None:
        """Wait for a leader and its synchronous standby."""
        async with asyncio.timeout(within):
            while sorted((await self.members()).values()) != ["leader", "sync_standby"]:
                await asyncio.sleep(0.3)

    async def switch_over(self) -> None:
        """Run Patroni's command line, as an operator does."""
        process = await asyncio.create_subprocess_exec(
            "/usr/bin/patronictl", "-c", str(self.folder / "pg1.yml"), "switchover", "--force",
            stdout=asyncio.subprocess.DEVNULL, env={"PATH": PATH, "HOME": str(self.folder), "LANG": "C.UTF-8"},
        )  # fmt: skip
        async with asyncio.timeout(60):
            assert await process.wait() == 0


def _etcd(folder: Path, ports: dict[str, int]) -> Program:
    client, peer = (f"http://127.0.0.1:{ports[name]}" for name in ("etcd", "peer"))
    return Program(
        "etcd",
        ("/usr/bin/etcd", "--name", "one", "--data-dir", str(folder / "etcd"), "--listen-client-urls", client,
         "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
         "--initial-cluster", f"one={peer}"),
        folder,
    )  # fmt: skip


def _node(folder: Path, name: str, ports: dict[str, int], passwords: dict[str, str]) -> Node:
    data, rest, port = folder / name, ports[f"{name}-rest"], ports[name]
    text = put(
        shipped_file("patroni.yml"),
        [
            ("name: pg1", f"name: {name}"),
            ("10.0.0.11:8008", f"127.0.0.1:{rest}"),
            ("10.0.0.11:5432", f"127.0.0.1:{port}"),
            ("10.0.0.21:2379,10.0.0.22:2379,10.0.0.23:2379", f"127.0.0.1:{ports['etcd']}"),
            ("/var/lib/postgresql/patroni", str(data)),
            ("/usr/lib/postgresql/15/bin", str(_binaries())),
            ("10.0.0.0/24", "127.0.0.1/32"),
            ("SUPERUSER-PASSWORD", passwords["postgres"]),
            ("REPLICATION-PASSWORD", passwords["replicator"]),
        ],
    )
    text += f"  parameters: {{unix_socket_directories: {folder}}}\n"  # Debian's own folder may be missing
    (folder / f"{name}.yml").write_text(text, encoding="utf-8")
    return Node(name, port, rest, data, Program(name, ("/usr/bin/patroni", str(folder / f"{name}.yml")), folder))


def _haproxy(folder: Path, ports: dict[str, int]) -> Program:
    changes = [("10.0.0.10:5000", f"127.0.0.1:{ports['haproxy']}")]
    for name, host in (("pg1", "10.0.0.11"), ("pg2", "10.0.0.12")):
        changes.append((f"{host}:5432 check port 8008", f"127.0.0.1:{ports[name]} check port {ports[name + '-rest']}"))
    (folder / "haproxy.cfg").write_text(put(shipped_file("haproxy.cfg"), changes), encoding="utf-8")
    return Program("haproxy", ("/usr/sbin/haproxy", "-db", "-f", str(folder / "haproxy.cfg")), folder)


def _pgbouncer(folder: Path, ports: dict[str, int], passwords: dict[str, str]) -> Program:
    (folder / "userlist.txt").write_text(f'"vault" "{passwords["vault"]}"\n', encoding="utf-8")
    text = put(
        shipped_file("pgbouncer.ini"),
        [
            (
                "vault = host=10.0.0.10 port=5000 dbname=vault",
                f"pooled = host=127.0.0.1 port={ports['haproxy']} dbname=pooled",
            ),
            ("listen_addr = 10.0.0.10", "listen_addr = 127.0.0.1"),
            ("listen_port = 6432", f"listen_port = {ports['pgbouncer']}"),
            ("/etc/pgbouncer/userlist.txt", str(folder / "userlist.txt")),
        ],
    )
    (folder / "pgbouncer.ini").write_text(f"{text}unix_socket_dir = {folder}\n", encoding="utf-8")
    return Program("pgbouncer", ("/usr/sbin/pgbouncer", str(folder / "pgbouncer.ini")), folder)


@asynccontextmanager
async def cluster() -> AsyncGenerator[Cluster]:
    """Start everything and wait until it is ready, with a role `vault` that owns a database for each path."""
    folder = Path(tempfile.mkdtemp(prefix="tvha", dir="/tmp"))
    names = ("etcd", "peer", "pg1", "pg1-rest", "pg2", "pg2-rest", "haproxy", "pgbouncer")
    ports = {name: free_port() for name in names}
    passwords = {name: secrets.token_hex(12) for name in ("postgres", "replicator", "vault")}
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        http = await stack.enter_async_context(httpx2.AsyncClient(trust_env=False, timeout=3))
        etcd = _etcd(folder, ports)
        nodes = [_node(folder, name, ports, passwords) for name in ("pg1", "pg2")]
        made = Cluster(
            folder, etcd, nodes, _haproxy(folder, ports), _pgbouncer(folder, ports, passwords), ports, passwords, http
        )
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            for path in (folder, *folder.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        stack.push_async_callback(etcd.kill)
        for node in nodes:
            stack.push_async_callback(node.end)
        stack.push_async_callback(made.haproxy.kill)
        stack.push_async_callback(made.pgbouncer.kill)
        try:
            async with asyncio.timeout(START):
                await _start(made)
        except TimeoutError:
            print(tails(folder), file=sys.stderr)
            raise
        await made.haproxy.start()
        await made.pgbouncer.start()
        yield made


def tails(folder: Path) -> str:
    """The last output of each program."""
    return "\n".join(
        f"{log.stem}: {line}" for log in sorted(folder.glob("*.log")) for line in log.read_text().splitlines()[-8:]
    )


async def _start(made: Cluster) -> None:
    await made.etcd.start()
    await made.nodes[0].patroni.start()
    await made.primary()
    await made.nodes[1].patroni.start()
    await made.healthy()
    connection = await asyncpg.connect(made.owner_url(await made.primary()))
    try:
        await connection.execute(f"create role vault login password '{made.passwords['vault']}'")
        for name in DATABASES:
            await connection.execute(f"create database {name} owner vault")
    finally:
        await connection.close()
