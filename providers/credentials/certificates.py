"""Reads a client certificate with its private key, as `key_files` opened them: in PEM, without a passphrase. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from providers.credentials.entered import CredentialRefused
from providers.credentials.key_files import open_pem_bundle
from providers.definitions.credential import ClientCertificate
from providers.outbound.messages import ClientIdentity


def open_identity(facts: ClientCertificate, values: Mapping[str, str]) -> tuple[ClientIdentity, int]:
    """The certificate to show, and the second of its end. Raises CredentialRefused."""
    text = values.get(facts.file, "")
    try:
        pem = open_pem_bundle(text, None).encode()
        first = x509.load_pem_x509_certificates(pem)[0]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CredentialRefused(facts.file, "key") from error
    return ClientIdentity(pem), int(first.not_valid_after_utc.timestamp())
