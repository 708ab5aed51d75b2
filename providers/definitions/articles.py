"""The indefinite article before a service's title, for English texts."""

from __future__ import annotations

import re
from typing import Final

# by sound: a European, a one-time code, a Unity account, a USPS parcel; an Uber, an Unsplash, an HMRC account
_CONSONANT: Final = re.compile(r"eu|one\b|ubi|uni(?!m|n)|us(?:[aeu]|ps)|ut[io]", re.IGNORECASE)
_SPELLED: Final = re.compile(r"[FHLMNRSX](?![A-Z]*[AEIOUY])[A-Z]*\b")  # capitals without a vowel are read as letters


def with_article(title: str) -> str:
    """`a Stripe`, `an Asana`."""
    is_vowel = title[:1].lower() in tuple("aeiou8") and _CONSONANT.match(title) is None
    return f"{'an' if is_vowel or _SPELLED.match(title) else 'a'} {title}"
