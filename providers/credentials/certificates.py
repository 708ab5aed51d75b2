"""Reads a client certificate with its private key: in PEM, or PKCS#12 in base64. Pure."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from providers.credentials.entered import CredentialRefused
from providers.definitions.credential import ClientCertificate
from providers.outbound.messages import ClientIdentity

_KEY: Final = re.compile(r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?-----END \1PRIVATE KEY-----", re.DOTALL)


def open_identity(facts: ClientCertificate, values: Mapping[str, str]) -> tuple[ClientIdentity, int]:
    """The certificate to show, and the second of its end. Raises CredentialRefused."""
    text = values.get(facts.file, "")
    passphrase = values.get(facts.passphrase or "", "").encode() or None
    try:
        chain, key = _read_pem(text, passphrase) if "-----BEGIN" in text else _read_pkcs12(text, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm, binascii.Error) as error:
        raise CredentialRefused(facts.file, "key") from error
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in chain)
    return ClientIdentity(pem + key), int(chain[0].not_valid_after_utc.timestamp())


def _read_pem(text: str, passphrase: bytes | None) -> tuple[list[x509.Certificate], bytes]:
    """The chain, whose first is the key's, and the key. Raises ValueError or TypeError."""
    found = _KEY.search(text)
    if found is None:
        raise ValueError("no private key")
    key = load_pem_private_key(found[0].encode(), passphrase)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certificates = x509.load_pem_x509_certificates(text.encode())
    own = [one for one in certificates if _public_of(one) == public]
    if not own:
        raise ValueError("no certificate of this key")
    return [own[0], *(one for one in certificates if one not in own)], _plain(key)


def _read_pkcs12(text: str, passphrase: bytes | None) -> tuple[list[x509.Certificate], bytes]:
    found = load_pkcs12(b64decode("".join(text.split()), validate=True), passphrase)
    if found.cert is None or found.key is None:
        raise ValueError("a certificate or key is missing")
    if _public_of(found.cert.certificate) != found.key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    ):
        raise ValueError("the certificate is of another key")
    return [found.cert.certificate, *(one.certificate for one in found.additional_certs)], _plain(found.key)


def _public_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _plain(key: object) -> bytes:
    private_bytes = getattr(key, "private_bytes", None)
    if private_bytes is None:
        raise TypeError("no such key")
    made: bytes = private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made
