"""One account of an import file of any format, and reading JSON exports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from providers.definitions.file_errors import reason_of
from providers.outbound.json_values import is_array, is_object
from server.administration.actor import ChangeRefused

LONGEST: Final = 16 * 1024  # maximum length of a value
MOST: Final = 100_000  # accounts
_LARGEST: Final = 512 * 1024 * 1024  # bytes
NO_REFRESH_TOKEN: Final = "the file has no refresh token for it: the person must connect it again"


@dataclass(frozen=True, slots=True)
class ImportedAccount:
    """One account as it is in its file.

    `people`: the names that its person may have here; a new person gets the first. `provider` and `scopes` are the
    source's names; `scopes` is None if the source doesn't report what was granted. `account`: the provider's ID of the
    account, in the form of our provider file if `account_is_ours`. `answer`: the token endpoint's answer, if the source
    keeps it. `access_is_lasting`: the access token doesn't expire, so it can replace a refresh token. `client_id` and
    `token_url` are those of the OAuth app, empty if unknown. `obstacle`: why the account can't be imported.
    """

    line: int
    people: tuple[str, ...]
    provider: str
    account: str = ""
    label: str = ""
    nickname: str = ""
    scopes: object = None
    refresh_token: str = field(default="", repr=False)
    access_token: str = field(default="", repr=False)
    answer: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    grant_expires_at: int | None = None
    client_id: str = ""
    token_url: str = ""
    obstacle: str = ""
    account_is_ours: bool = False
    access_is_lasting: bool = False

    @property
    def user(self) -> str:
        """The person's name in reports."""
        return self.people[0] if self.people else ""


def unreadable(file: Path, why: str) -> ChangeRefused:
    return ChangeRefused("import_unreadable", f"can't read {file}: {why}")


def read_records(file: Path, *members: str) -> Sequence[Mapping[str, object]]:
    """The objects in a JSON file: an array, JSON lines, one object, or an object that contains them in one of
    `members`.

    Raises ChangeRefused.
    """
    found = _objects(file, _content(file), members)
    if len(found) > MOST:
        raise unreadable(file, f"it has more than {MOST:,} records: split it")
    return found


def _content(file: Path) -> object:
    try:
        if file.stat().st_size > _LARGEST:
            raise unreadable(file, f"it is larger than {_LARGEST // 1024 // 1024} MiB: split it")
        text = file.read_text(encoding="utf-8-sig")
        if not text.strip():
            raise unreadable(file, "it is empty")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(file, reason_of(error)) from error
    return parse_json(file, text)


def parse_json(file: Path, text: str) -> object:
    """JSON, or JSON lines as an array. Raises ChangeRefused."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    found: list[object] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise unreadable(file, f"line {number} is not JSON") from error
    return found


def _objects(file: Path, content: object, members: tuple[str, ...]) -> list[Mapping[str, object]]:
    if is_object(content):
        content = next((content[name] for name in members if is_array(content.get(name))), [content])
    if not is_array(content):
        raise unreadable(file, "it contains no JSON object")
    found = [one for one in content if is_object(one)]
    if len(found) != len(content):
        raise unreadable(file, "it contains values that aren't JSON objects")
    return found


def text_of(record: Mapping[str, object], *names: str) -> str:
    """The first of these members that is a printable text or an integer; empty if none is."""
    for name in names:
        value = record.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip() if len(value) <= LONGEST and value.strip().isprintable() else ""
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return ""


def verified_email(record: Mapping[str, object]) -> str:
    """The email address, unless the source reports that it isn't verified.

    Names that people choose there, such as nicknames, don't identify people of this vault.
    """
    said = record.get("email_verified", record.get("emailVerified", True))
    return text_of(record, "email") if said in (True, "true", "t", "1") else ""


def object_of(record: Mapping[str, object], name: str) -> Mapping[str, object]:
    """The member if it is an object, else an empty object."""
    value = record.get(name)
    return value if is_object(value) else {}


def objects_of(record: Mapping[str, object], name: str) -> Sequence[Mapping[str, object]]:
    """The objects of an array member."""
    value = record.get(name)
    return [one for one in value if is_object(one)] if is_array(value) else []


def names_of(*candidates: str) -> tuple[str, ...]:
    """The names that aren't empty, each once."""
    return tuple(dict.fromkeys(name for name in candidates if name))
