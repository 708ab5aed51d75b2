"""Resolves a subject identifier (RFC 9493) to a person here, or an account at a provider.

A transmitter can only report about its own people: those linked under the issuer that the operator set for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from server.signal_settings import GOOGLE, TransmitterSettings
from vault import users
from vault.records import User
from vault.storage.database import Reader


class SubjectUnsupported(Exception):
    """No identifier has a supported format."""


async def find_person(
    reader: Reader, transmitter: TransmitterSettings, subjects: Iterable[Mapping[str, object]]
) -> User | None:
    """The person that all supported identifiers name; None if there is none or they name different people.

    Raises SubjectUnsupported.
    """
    found: dict[str, User] = {}
    is_known = False
    for subject in subjects:
        if _format(subject) not in {"iss_sub", "email", "opaque"}:
            continue
        is_known = True
        if (user := await _find_one(reader, transmitter, subject)) is not None:
            found[user.id] = user
    if not is_known:
        raise SubjectUnsupported
    return next(iter(found.values())) if len(found) == 1 else None


async def _find_one(reader: Reader, transmitter: TransmitterSettings, subject: Mapping[str, object]) -> User | None:
    issuer = transmitter.people_of
    match _format(subject):
        case "iss_sub":  # RFC 9493 §3.2.2
            named = _text(subject, "sub")
            is_own = is_of(transmitter, _text(subject, "iss"))
            return await users.find_by_identity(reader, issuer=issuer, subject=named) if named and is_own else None
        case "opaque":  # §3.2.5: where the transmitter's `id` was linked as subject
            named = _text(subject, "id")
            return await users.find_by_identity(reader, issuer=issuer, subject=named) if named else None
        case _:  # §3.2.3: an address that this issuer confirmed at the person's last sign-in here
            named = _text(subject, "email").lower()
            return await users.find_by_email(reader, issuer=issuer, email=named) if named else None


def accounts_at_provider(transmitter: TransmitterSettings, subjects: Iterable[Mapping[str, object]]) -> frozenset[str]:
    """The ids of accounts at the transmitter's provider: the `sub` there is the account's id here."""
    named = (
        _text(subject, "sub")
        for subject in subjects
        if _format(subject) == "iss_sub" and is_of(transmitter, _text(subject, "iss"))
    )
    return frozenset(one for one in named if one)


def is_of(transmitter: TransmitterSettings, issuer: str) -> bool:
    """Whether a subject of this issuer is one of the transmitter's own. Google's issuer has a slash in signals only."""
    own = {transmitter.issuer, transmitter.people_of}
    return issuer in (own | {GOOGLE, f"{GOOGLE}/"} if transmitter.is_google else own)


def _format(subject: Mapping[str, object]) -> str:
    """The identifier's format; `subject_type`, with dashes, is the older name (RISC 1.0 §3.1)."""
    return _text(subject, "format") or _text(subject, "subject_type").replace("-", "_")


def _text(subject: Mapping[str, object], name: str) -> str:
    value = subject.get(name)
    return value if isinstance(value, str) and len(value) <= 1024 and value.isprintable() else ""
