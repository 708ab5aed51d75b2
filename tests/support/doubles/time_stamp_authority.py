"""A time-stamping authority (RFC 3161) on loopback: OpenSSL's, behind HTTP, with its own root certificate."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.conftest import unavailable
from tests.support.harness import free_socket, serve_app

POLICY = "1.2.3.4.1"
_CONFIG = """
[tsa]
default_tsa = tsa1
[tsa1]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = {policy}
digests = sha256, sha512
accuracy = secs:1
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


@dataclass
class TimeStamping:
    """`root`: the PEM file that its time stamps lead to. `answers`: what it sends instead, if set."""

    folder: Path
    url: str
    answers: bytes | None = None

    @property
    def root(self) -> Path:
        return self.folder / "root.pem"

    async def answer(self, request: Request) -> Response:
        content = self.answers if self.answers is not None else await self._stamp(await request.body())
        return Response(content, media_type="application/timestamp-reply")

    async def _stamp(self, query: bytes) -> bytes:
        asked, made = self.folder / "asked.tsq", self.folder / "made.tsr"
        asked.write_bytes(query)
        command = ["openssl", "ts", "-reply", "-config", str(self.folder / "tsa.cnf"), "-section", "tsa1"]
        command += ["-queryfile", str(asked), "-out", str(made)]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        assert await process.wait() == 0
        return made.read_bytes()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make_authority(folder: Path) -> None:
    """Its certificates, key and configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    from_, to = now - timedelta(days=1), now + timedelta(days=30)

    def certificate_builder(name: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        made = x509.CertificateBuilder().subject_name(_name(name)).issuer_name(_name("Test Root"))
        made = made.public_key(public).serial_number(x509.random_serial_number())
        return made.not_valid_before(from_).not_valid_after(to)

    root = certificate_builder("Test Root", root_key.public_key())
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
    leaf = certificate_builder("Test Authority", key.public_key()).add_extension(usage, critical=True)
    leaf = leaf.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    (folder / "root.pem").write_bytes(root.sign(root_key, SHA256()).public_bytes(Encoding.PEM))
    (folder / "tsa.pem").write_bytes(leaf.sign(root_key, SHA256()).public_bytes(Encoding.PEM))
    (folder / "tsa.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "serial").write_text("01\n")
    (folder / "tsa.cnf").write_text(_CONFIG.format(folder=folder, policy=POLICY))


@asynccontextmanager
async def running_authority(folder: Path) -> AsyncGenerator[TimeStamping]:
    """Listen until the block ends; `folder` keeps what it needs."""
    if shutil.which("openssl") is None:
        unavailable("the time-stamping authority needs openssl")
    make_authority(folder)
    listening = free_socket()
    authority = TimeStamping(folder, f"http://127.0.0.1:{listening.getsockname()[1]}/stamp")
    routes = [Route("/stamp", authority.answer, methods=["POST"])]
    async with serve_app(Starlette(routes=routes), listening):
        yield authority
