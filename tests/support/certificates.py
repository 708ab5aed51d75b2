"""Client certificates with their keys, made for a test."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class ClientCertificate:
    """A self-signed certificate, and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def private(self, passphrase: bytes | None = None) -> str:
        sealing = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealing).decode()

    def pkcs12(self, passphrase: bytes) -> str:
        sealing = BestAvailableEncryption(passphrase)
        return b64encode(serialize_key_and_certificates(b"x", self.key, self.certificate, None, sealing)).decode()


def issue(*, days: int = 400, after_days: int = -1000) -> ClientCertificate:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    number = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"customer {number}")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(number).not_valid_before(now + timedelta(days=after_days))
    made = made.not_valid_after(now + timedelta(days=days))
    return ClientCertificate(
        made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(key, hashes.SHA256()), key
    )
