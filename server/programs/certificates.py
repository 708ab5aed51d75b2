"""A certificate authority for one run of a program, limited to the hosts that the vault handles.

Its key never leaves this process's memory, and only the program trusts it. The key of the hosts' certificates is
written to disk encrypted, and only until OpenSSL, which can only read files, has loaded it.
"""

from __future__ import annotations

import ipaddress
import secrets
import ssl
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE: Final = timedelta(days=30)  # longer than any program runs; the authority ends with the run anyway
_EARLIER: Final = timedelta(hours=1)  # clocks of containers may be behind
_MOST_CONTEXTS: Final = 1024


class RunAuthority:
    """Certificates for `domains` and hosts below them only, enforced by name constraints (RFC 5280 §4.2.1.10).

    `most`: the largest number of hosts.
    """

    def __init__(self, domains: Collection[str], *, folder: Path, most: int | None = None) -> None:
        self._domains = frozenset(domains)
        self._folder = folder
        self._most = most
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Token Vault, for one program")])
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.certificate = self._own()

    @property
    def pem(self) -> str:
        """The authority's certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def has_room_for(self, host: str) -> bool:
        """Whether this host has a certificate, or may get one."""
        return self._most is None or host in self._contexts or len(self._contexts) < self._most

    def context(self, host: str) -> ssl.SSLContext:
        """The server-side TLS context for a host in one of the domains. Raises KeyError for any other."""
        if not any(host == one or host.endswith(f".{one}") for one in self._domains):
            raise KeyError(host)
        if host not in self._contexts:
            if len(self._contexts) >= _MOST_CONTEXTS:
                self._contexts.clear()
            self._contexts[host] = self._make_context(host)
        return self._contexts[host]

    def _own(self) -> x509.Certificate:
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        # without addresses of its own, the authority may certify no IP address at all
        networks = [x509.IPAddress(_network(host)) for host in sorted(self._domains) if _is_address(host)]
        names = [x509.DNSName(host) for host in sorted(self._domains) if not _is_address(host)]
        limits = x509.NameConstraints(
            permitted_subtrees=[*(names or [x509.DNSName("invalid")]), *networks],
            excluded_subtrees=None if networks else [x509.IPAddress(ipaddress.ip_network(one)) for one in _EVERYTHING],
        )
        return (
            self._builder(self._name)
            .public_key(self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(limits, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _builder(self, subject: x509.Name) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _EARLIER)
            .not_valid_after(now + _LIFE)
        )

    def _make_context(self, host: str) -> ssl.SSLContext:
        named = x509.IPAddress(ipaddress.ip_address(host)) if _is_address(host) else x509.DNSName(host)
        certificate = (
            self._builder(x509.Name([]))
            .public_key(self._leaf_key.public_key())
            .add_extension(x509.SubjectAlternativeName([named]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.sni_callback = partial(_check_name, host)
        self._load(context, certificate)
        return context

    def _load(self, context: ssl.SSLContext, certificate: x509.Certificate) -> None:
        password = secrets.token_bytes(32).hex()
        key = self._leaf_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode()),
        )
        file = self._folder / f"{secrets.token_hex(8)}.pem"
        file.touch(mode=0o600)
        try:
            file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + key)
            context.load_cert_chain(file, password=password)
        finally:
            file.unlink()


def _check_name(host: str, _connection: object, named: str | None, _context: object) -> int | None:
    """Refuse a handshake for a host other than the tunnel's (RFC 6066 §3); many clients send no name for an address."""
    if named is None or named.lower() == host:
        return None
    return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME


_EVERYTHING: Final = ("0.0.0.0/0", "::/0")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _network(host: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(host)
