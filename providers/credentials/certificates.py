"""Reads client certificates with their private keys, in PEM, without a passphrase: those that people entered or refer
to, after `key_files` opened them, and the operator's, in a file.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from providers.credentials.entered_values import CredentialRefused
from providers.credentials.key_files import open_pem_bundle
from providers.definitions.credential import ClientCertificate
from providers.definitions.model import Registration
from providers.outbound.messages import ClientIdentity, NotReached


@dataclass(frozen=True, slots=True)
class HeldCertificate:
    """A certificate to show, and the times between which it's valid (RFC 5280 §4.1.2.5)."""

    identity: ClientIdentity
    starts_at: int
    ends_at: int


def open_identity(facts: ClientCertificate, values: Mapping[str, str]) -> HeldCertificate:
    """The certificate to show. Raises CredentialRefused."""
    text = values.get(facts.file, "")
    try:
        pem = open_pem_bundle(text, None).encode()
        first = x509.load_pem_x509_certificates(pem)[0]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CredentialRefused(facts.file, "key") from error
    return _certificate_of(pem, first)


def open_valid_identity(facts: ClientCertificate, values: Mapping[str, str], *, now: int) -> HeldCertificate:
    """The certificate, if it is valid now. Raises CredentialRefused, also with `ended` or `early`."""
    held = open_identity(facts, values)
    if held.ends_at <= now:
        raise CredentialRefused(facts.file, "ended")
    if held.starts_at > now:
        raise CredentialRefused(facts.file, "early")
    return held


def read_certificate_file(file: str) -> HeldCertificate:
    """The operator's certificate, read from the file now. Raises OSError or ValueError."""
    stat = Path(file).stat()
    return _read_file(file, (stat.st_mtime_ns, stat.st_size, stat.st_ino))


@functools.lru_cache(maxsize=16)
def _read_file(file: str, _version: tuple[int, int, int]) -> HeldCertificate:
    try:
        pem = open_pem_bundle(Path(file).read_text(encoding="ascii"), None).encode()
        first = x509.load_pem_x509_certificates(pem)[0]
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("no certificate with its private key") from error
    return _certificate_of(pem, first)


def _certificate_of(pem: bytes, first: x509.Certificate) -> HeldCertificate:
    starts, ends = first.not_valid_before_utc, first.not_valid_after_utc
    return HeldCertificate(ClientIdentity(pem), int(starts.timestamp()), int(ends.timestamp()))


def client_identity(registration: Registration) -> ClientIdentity | None:
    """The certificate by which a provider recognizes this vault (RFC 8705 §2); None if settings name none. It's read at
    each use, so that a renewed one takes effect at once. Raises NotReached if it can't be used, so that nothing is sent
    that the provider would refuse.
    """
    if registration.certificate_file is None:
        return None
    try:
        held = read_certificate_file(registration.certificate_file)
    except (OSError, ValueError) as error:
        raise NotReached("this vault's client certificate can't be read") from error
    now = time.time()
    if held.ends_at <= now:
        raise NotReached("this vault's client certificate has expired")
    if held.starts_at > now:
        raise NotReached("this vault's client certificate isn't valid yet")
    return held.identity
