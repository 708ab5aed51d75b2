"""Check of the client certificate that identifies this vault to a provider (RFC 8705)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from providers.credentials.certificates import read_certificate_file
from providers.definitions.model import BY_CERTIFICATE, Provider
from server.doctor.findings import Finding, note, ok, problem

_SOON: Final = 14  # days
_DAY: Final = 86400


def check_certificate(provider: Provider, *, now: int) -> list[Finding]:
    """Check one provider's certificate; no finding if none is needed or set."""
    check, setting = f"{provider.name}.certificate", f"providers.{provider.name}.client_certificate_file"
    file = provider.registration.certificate_file
    if file is None:
        if provider.client_auth not in BY_CERTIFICATE:
            return []
        return [problem(check, f"{provider.title} requires a client certificate", fix=f"set {setting}")]
    try:
        held = read_certificate_file(file)
    except (OSError, ValueError):
        fix = f"create a PEM file there with a certificate and its private key, or correct {setting}"
        return [problem(check, f"can't read the client certificate in {file}", fix=fix)]
    day, ends_at = datetime.fromtimestamp(held.ends_at, UTC).date().isoformat(), held.ends_at
    if held.starts_at > now:
        start = datetime.fromtimestamp(held.starts_at, UTC).isoformat(timespec="seconds")
        fix = f"wait, correct this machine's clock, or replace the certificate in {file}"
        return [problem(check, f"the client certificate is only valid from {start}", fix=fix)]
    if ends_at <= now:
        return [problem(check, f"the client certificate expired on {day}", fix=f"put a renewed one into {file}")]
    if ends_at < now + _SOON * _DAY:
        return [note(check, f"the client certificate expires on {day}", fix=f"put a renewed one into {file}")]
    return [ok(check, f"the client certificate is valid until {day}")]
