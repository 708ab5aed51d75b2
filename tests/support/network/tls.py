"""A TLS-terminating proxy on loopback with a certificate authority made for the test, and clients that trust it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Carry = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]


@dataclass(frozen=True)
class Authority:
    """The files of a certificate authority and of the one certificate that it signed."""

    authority: Path
    certificate: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))


def make_authority(folder: Path, *hosts: str) -> Authority:
    """A fresh authority, and a certificate for these hosts."""
    now = datetime.datetime.now(datetime.UTC)
    root_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])

    def builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(root)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        )

    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign")
    usage = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    signing = x509.KeyUsage(digital_signature=False, key_cert_sign=True, **usage)
    serving = x509.KeyUsage(digital_signature=True, key_cert_sign=False, **usage)
    authority = (
        builder(root, root_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(signing, critical=True)
        .sign(root_key, hashes.SHA256())
    )
    certificate = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])]), leaf_key)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(serving, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    made = Authority(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    made.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        leaf_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return made


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, alter: Callable[[bytes], bytes] | None = None
) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data if alter is None else alter(data))
            await writer.drain()
    with contextlib.suppress(ConnectionError, ssl.SSLError, RuntimeError):
        writer.close()


@asynccontextmanager
async def _carry_connections(
    carry: Carry, listening: socket.socket, *, tls: ssl.SSLContext | None
) -> AsyncGenerator[None]:
    """Serve every connection with `carry` until the block ends."""
    open_now: set[asyncio.Task[None]] = set()

    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(carry(reader, writer))
        open_now.add(task)
        task.add_done_callback(open_now.discard)

    server = await asyncio.start_server(take, sock=listening, ssl=tls)
    try:
        yield
    finally:
        server.close()
        waiting = list(open_now)
        for task in waiting:
            task.cancel()
        async with asyncio.timeout(30):
            await asyncio.gather(*waiting, return_exceptions=True)
            await server.wait_closed()


async def _join(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, port: int, change: Callable[[bytes], bytes] | None
) -> None:
    """Carry bytes both ways between this connection and a port of this machine."""
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await asyncio.gather(_pump(reader, inner_writer, alter=change), _pump(inner_reader, writer))
    finally:
        for one in (inner_writer, writer):
            one.transport.abort()


@asynccontextmanager
async def tls_proxy(
    listening: socket.socket,
    authority: Authority,
    *,
    backend: int,
    change: Callable[[bytes], bytes] | None = None,
) -> AsyncGenerator[None]:
    """Terminate TLS and pass the bytes to the port on this machine; changes no header, not even `Host`.

    `change` is for proxies that do change what they pass on.
    """

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _join(reader, writer, port=backend, change=change)

    async with _carry_connections(carry, listening, tls=authority.server()):
        yield


@asynccontextmanager
async def tunnel_to(port: int) -> AsyncGenerator[str]:
    """An HTTP proxy whose tunnels (CONNECT, RFC 9110 §9.3.6) all lead to this port of this machine; yields its URL."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"CONNECT "), head
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        await _join(reader, writer, port=port, change=None)

    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with _carry_connections(carry, listening, tls=None):
        yield address


class Through(httpx2.AsyncBaseTransport):
    """Reaches one host, whatever its name, at a port of this machine, over TLS for that name. Adds `headers`.

    `address` is the loopback address that it connects from; `port` is where it connects, if not at the URL's.
    """

    def __init__(
        self,
        host: str,
        authority: Authority,
        *,
        headers: Mapping[str, str] | None = None,
        address: str | None = None,
        port: int | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._headers = dict(headers or {})
        self._inner = httpx2.AsyncHTTPTransport(verify=authority.client(), local_address=address)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        assert request.url.host == self._host, request.url
        headers = {**request.headers, **self._headers}
        moved = httpx2.Request(
            request.method,
            request.url.copy_with(host="127.0.0.1", port=self._port or request.url.port),
            headers=headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": self._host},
        )
        return await self._inner.handle_async_request(moved)

    async def aclose(self) -> None:
        await self._inner.aclose()
