"""The proxies of `deploy/proxy` as processes on loopback: their shipped files, with other ports and paths."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.generating.documentation import ROOT
from tests.support.network.tls import Authority
from tests.support.processes import end

SHIPPED = ROOT / "deploy" / "proxy"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
HOST = "vault.test"
NGINX = """\
daemon off;
pid {folder}/pid;
error_log {folder}/error.log warn;
worker_processes 1;
{user}
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/unused1;
    uwsgi_temp_path {folder}/unused2;
    scgi_temp_path {folder}/unused3;
    include {folder}/site.conf;
}}
"""


@dataclass(frozen=True)
class Ports:
    """Where the proxy listens, and the two vaults behind it."""

    plain: int
    tls: int
    vaults: tuple[int, int]


@dataclass(frozen=True)
class Command:
    """How to start one proxy, and the variables that its shipped file reads."""

    arguments: Sequence[str]
    variables: Mapping[str, str]


def program(name: str) -> str | None:
    """Where the proxy is installed."""
    return shutil.which(name, path=PATH)


def put(text: str, changes: Mapping[str, str]) -> str:
    """The shipped text with each of these replaced; text that isn't there is an error."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx(folder: Path, authority: Authority, ports: Ports) -> Command:
    """`nginx.conf` as a site."""
    site = put(
        (SHIPPED / "nginx.conf").read_text(encoding="utf-8"),
        {
            "listen 80;": f"listen 127.0.0.1:{ports.plain};",
            "listen 443 ssl http2;": f"listen 127.0.0.1:{ports.tls} ssl http2;",
            "server_name vault.example.com;": f"server_name {HOST};",
            "/etc/ssl/token-vault/certificate.pem": str(authority.certificate),
            "/etc/ssl/token-vault/key.pem": str(authority.key),
            "server 127.0.0.1:8765": f"server 127.0.0.1:{ports.vaults[0]}",
            "server 127.0.0.1:8766": f"server 127.0.0.1:{ports.vaults[1]}",
        },
    )
    (folder / "site.conf").write_text(site, encoding="utf-8")
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, user=user), encoding="utf-8")
    return Command((str(program("nginx")), "-p", str(folder), "-c", str(folder / "nginx.conf")), {})


def haproxy(folder: Path, authority: Authority, ports: Ports) -> Command:
    """`haproxy.cfg`."""
    both = folder / "vault.pem"
    both.write_bytes(authority.certificate.read_bytes() + authority.key.read_bytes())
    text = put(
        (SHIPPED / "haproxy.cfg").read_text(encoding="utf-8"),
        {
            "bind :80": f"bind 127.0.0.1:{ports.plain}",
            "bind :443": f"bind 127.0.0.1:{ports.tls}",
            "/run/secrets/vault.pem": str(both),
        },
    )
    (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
    variables = {f"VAULT_{n}": f"127.0.0.1:{port}" for n, port in enumerate(ports.vaults, 1)}
    return Command(
        (str(program("haproxy")), "-db", "-f", str(folder / "haproxy.cfg")), {**variables, "VAULT_HOST": HOST}
    )


def caddy(folder: Path, authority: Authority, ports: Ports) -> Command:
    """`Caddyfile`, with the test's certificate instead of one from the internet."""
    site = put(
        (SHIPPED / "Caddyfile").read_text(encoding="utf-8"),
        {"{$VAULT_HOST} {\n": f"{{$VAULT_HOST}} {{\n\ttls {authority.certificate} {authority.key}\n"},
    )
    options = f"{{\n\tadmin off\n\thttp_port {ports.plain}\n\thttps_port {ports.tls}\n\tdefault_bind 127.0.0.1\n}}\n"
    (folder / "Caddyfile").write_text(options + site, encoding="utf-8")
    servers = " ".join(f"127.0.0.1:{port}" for port in ports.vaults)
    arguments = (str(program("caddy")), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile"))
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    return Command(arguments, {**home, "VAULT_HOST": HOST, "VAULT_SERVERS": servers})


def traefik(folder: Path, authority: Authority, ports: Ports) -> Command:
    """`traefik.yml` and `traefik-vault.yml`, with the test's certificate instead of one from the internet."""
    static = (SHIPPED / "traefik.yml").read_text(encoding="utf-8")
    static = put(
        static[: static.index("certificatesResolvers:")],
        {
            '":80"': f'"127.0.0.1:{ports.plain}"',
            '":443"': f'"127.0.0.1:{ports.tls}"',
            "/etc/traefik/traefik-vault.yml": str(folder / "vault.yml"),
        },
    )
    dynamic = put(
        (SHIPPED / "traefik-vault.yml").read_text(encoding="utf-8"),
        {
            "vault.example.com": HOST,
            "tls: {certResolver: letsencrypt}": "tls: {}",
            "http://127.0.0.1:8765": f"http://127.0.0.1:{ports.vaults[0]}",
            "http://127.0.0.1:8766": f"http://127.0.0.1:{ports.vaults[1]}",
        },
    )
    dynamic += f"tls:\n  certificates:\n    - {{certFile: {authority.certificate}, keyFile: {authority.key}}}\n"
    (folder / "traefik.yml").write_text(static, encoding="utf-8")
    (folder / "vault.yml").write_text(dynamic, encoding="utf-8")
    return Command((str(program("traefik")), f"--configFile={folder / 'traefik.yml'}"), {"HOME": str(folder)})


MAKERS = {"nginx": nginx, "haproxy": haproxy, "caddy": caddy, "traefik": traefik}


@asynccontextmanager
async def proxy(name: str, folder: Path, authority: Authority, ports: Ports) -> AsyncGenerator[None]:
    """Run the proxy; the block starts when it accepts connections."""
    command = MAKERS[name](folder, authority, ports)
    with (folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command.arguments, cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            env={"PATH": PATH, **command.variables},
        )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            while not _accepts(ports.tls):
                assert process.returncode is None, (folder / f"{name}.log").read_text(encoding="utf-8")
                await asyncio.sleep(0.05)
        yield
    finally:
        await end(process, patience=5)  # streams may still be open


def _accepts(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(0.5)
        return one.connect_ex(("127.0.0.1", port)) == 0
