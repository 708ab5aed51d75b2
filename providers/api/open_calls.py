"""What a rule for every path excludes at a service with a credential: answers with secrets, and GETs that change
something. Pure.

Not every call of these services has been reviewed, so the names of path segments and query parameters decide. A rule
for a path in the service's file takes precedence.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORDS: Final = re.compile(r"[^\W_]+")
# Parts of a name without separators, in lowercase.
_SECRET: Final = re.compile(
    r"(?<!count)token(?!i[sz])|secret(?!ar)|passw|passphrase|passcode|credential|private|reveal|impersonat|kubeconfig|magic(?:auth|link)"
    r"|apikeys?|keypair|(?:access|account|app|auth|client|encryption|hmac|host|license|master|member|public|sdk|secret|server"
    r"|service|shared|signing|ssh|storage|stream|webhook)keys?(?!w)"
    r"|connection(?:uri|url|string|info|detail)|env(?:ironment)?var|(?:backup|recovery)code|(?:login|signin)link"
    r"|signedurl|presigned"
)
_SECRET_WORDS: Final = frozenset({"keys", "env", "dsn", "jwt", "otp", "totp", "mfa", "sas"})
_SECRET_NAMES: Final = re.compile(
    r"secret(?!ar)|passw|passphrase|credential|reveal|decrypt|unmask|plaintext|apikey|privatekey|sensitive"
    r"|(?:include|show|with|expand|return|get|add)[a-z]*(?:token|key)s?$"
)
_SELECTORS: Final = re.compile(
    r"(?:include|expand|field|select|with|embed|show|extra|column|propert|attribute|scope|view)"
)
# fmt: off
_CHANGE: Final = frozenset(
    (
        "accept", "activate", "add", "approve", "archive", "assign", "buy", "cancel", "charge", "clear",
        "clone", "close", "complete", "copy", "create", "deactivate", "delete", "deliver", "deploy",
        "destroy", "disable", "disconnect", "drop", "enable", "enroll", "execute", "flush", "generate",
        "import", "insert", "invite", "invoke", "kill", "launch", "lock", "merge", "move", "pause", "pay", "post",
        "publish", "purchase", "purge", "put", "reboot", "redeliver", "refresh", "refund", "regenerate",
        "register", "reindex", "reject", "remove", "rename", "renew", "replay", "resend", "reset",
        "restart", "restore", "resume", "retry", "revoke", "rollback", "rotate", "run", "save", "send", "set",
        "spawn", "start", "stop", "submit", "subscribe", "suspend", "terminate", "transfer", "trash",
        "trigger", "unarchive", "undelete", "unlink", "unpublish", "unsubscribe", "update", "upload",
        "upsert", "void", "wipe", "write",
    )
)
_AMBIGUOUS: Final = frozenset(
    (
        "add", "close", "complete", "copy", "import", "move", "post", "put", "register", "renew", "run", "save",
        "set", "start", "update",
    )
)
# fmt: on
_CHANGE_NAMES: Final = _CHANGE - _AMBIGUOUS  # of parameters: `start=20` asks for a page
_ACTIONS: Final = frozenset({"action", "act", "op", "operation", "do", "cmd", "command", "task", "mode", "function"})
_NO: Final = frozenset({"", "0", "false", "no", "off", "none"})


def tells_secrets(path: str) -> bool:
    """Whether a segment of this path sounds like a credential."""
    return any(_is_secret(one) for one in _decode(path).split("/"))


def changes_something(path: str) -> bool:
    """Whether a GET of this path sounds like a change: a segment begins with a verb, or ends with one after a dot."""
    for segment in _decode(path).split("/"):
        *before, last = segment.split(".")
        first = _words(before[0] if before else last)[:1]
        if not _CHANGE.isdisjoint([*first, *(_words(last)[:1] if before else ())]):
            return True
    return False


def asks_for_secrets(query: Iterable[tuple[str, object]]) -> bool:
    """Whether a parameter asks for a credential, by its name or, where it selects what is shown, by its value."""
    for name, value in query:
        folded = _fold(name)
        if _SECRET_NAMES.search(folded) is not None and not _is_no(value):
            return True
        if _SELECTORS.match(folded) is not None and any(_is_secret(one) for one in re.split(r"[\s,.|/]+", str(value))):
            return True
    return False


def asks_for_change(query: Iterable[tuple[str, object]]) -> bool:
    """Whether a parameter turns a GET into a change: `delete=1`, `action=restart`."""
    for name, value in query:
        words = _words(name)
        if len(words) == 1 and words[0] in _CHANGE_NAMES and not _is_no(value):
            return True
        if "".join(words) in _ACTIONS and not _CHANGE.isdisjoint(_words(str(value))[:1]):
            return True
    return False


def _decode(path: str) -> str:
    return unicodedata.normalize("NFKC", unquote(path))


def _words(text: str) -> list[str]:
    return [one.lower() for one in _WORDS.findall(_CAMEL.sub(" ", text))]


def _fold(text: str) -> str:
    return "".join(_WORDS.findall(unicodedata.normalize("NFKC", text).lower()))


def _is_secret(segment: str) -> bool:
    if _SECRET.search(_fold(segment)) is not None:
        return True
    parts = [_words(one) for one in segment.split(".")]
    words = {*(word for part in parts for word in part), *_WORDS.findall(segment.lower())}
    return not _SECRET_WORDS.isdisjoint(words) or any(part[-1:] == ["key"] for part in parts)  # not `key-results`


def _is_no(value: object) -> bool:
    return str(value).strip().lower() in _NO
