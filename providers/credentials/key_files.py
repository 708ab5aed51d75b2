"""Opens private keys that people enter, in a separate process with a time limit: the author of a key chose its size,
and how often it is derived from its passphrase (RFC 8018 §4.2, RFC 7292 §5.1, RFC 7914 §2).

`server.connecting.entered_keys` starts the process. The keys that it returns need no passphrase.
"""

from __future__ import annotations

import binascii
import json
import os
import re
import sys
from base64 import b64decode
from contextlib import suppress
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

LARGEST_RSA: Final = 4096  # bits: each use of a larger key takes seconds
SECONDS: Final = 5  # seconds of computing, including the process itself: about 20 million iterations
MEMORY: Final = 1024 * 1024 * 1024  # bytes
INPUT_LIMIT: Final = 256 * 1024  # bytes
_KEY: Final = re.compile(r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", re.DOTALL)


def main() -> None:
    """Print the opened key for the job in the input; an empty text if none opens."""
    job: dict[str, Any] = json.loads(sys.stdin.buffer.read(INPUT_LIMIT))
    _limit(int(job["seconds"]))
    passphrase = str(job["passphrase"]).encode() or None
    try:
        opened = (open_bundle if job["has_certificate"] else open_pem)(str(job["text"]), passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        opened = ""
    sys.stdout.write(opened)


def _limit(seconds: int) -> None:
    """Set the operating system's limits, where it has them, and a low priority."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.nice(10)


def open_pem(text: str, passphrase: bytes | None) -> str:
    """The private key in PEM, without a passphrase. Raises ValueError, TypeError, or UnsupportedAlgorithm."""
    return _plain(load_pem_private_key(text.encode(), passphrase))


def open_bundle(text: str, passphrase: bytes | None) -> str:
    """The certificate of the key, its chain, and the key, in PEM; the file is PEM or PKCS#12 in base64.

    Raises ValueError, TypeError, or UnsupportedAlgorithm.
    """
    return (open_pem_bundle if "-----BEGIN" in text else _open_pkcs12)(text, passphrase)


def open_pem_bundle(text: str, passphrase: bytes | None) -> str:
    """The same from a file in PEM."""
    found = _KEY.search(text)
    if found is None:
        raise ValueError("no private key")
    key = load_pem_private_key(found[0].encode(), passphrase)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certificates = x509.load_pem_x509_certificates(text.encode())
    own = [one for one in certificates if _public_of(one) == public]
    if not own:
        raise ValueError("no certificate of this key")
    return _in_pem([own[0], *(one for one in certificates if one not in own)], key)


def _open_pkcs12(text: str, passphrase: bytes | None) -> str:
    try:
        found = load_pkcs12(b64decode("".join(text.split()), validate=True), passphrase)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    if found.cert is None or found.key is None:
        raise ValueError("a certificate or key is missing")
    if _public_of(found.cert.certificate) != found.key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    ):
        raise ValueError("the certificate is of another key")
    return _in_pem([found.cert.certificate, *(one.certificate for one in found.additional_certs)], found.key)


def _in_pem(chain: list[x509.Certificate], key: object) -> str:
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in chain) + _plain(key)


def _public_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _plain(key: object) -> str:
    private_bytes = getattr(key, "private_bytes", None)
    if private_bytes is None or (isinstance(key, RSAPrivateKey) and key.key_size > LARGEST_RSA):
        raise TypeError("no such key")
    made: bytes = private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.decode()
