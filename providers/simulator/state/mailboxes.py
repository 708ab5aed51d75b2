"""The sandbox's mailboxes: real MIME messages around 'now'. Keeps what is written; independent of tokens and HTTP."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, getaddresses, make_msgid

from providers.simulator.accounts import PEOPLE

WELCOME = "18f0000000000001"
NEWSLETTER = "18f0000000000002"
_NEWSLETTER = (
    "<html><head><style>p {color: red}</style></head><body><h1>Garden news</h1><p>Plant <b>garlic</b> now.</p>"
    "<script>steal()</script><p>Caf&eacute; opens at&nbsp;nine.</p></body></html>"
)


@dataclass(slots=True)
class Mail:
    """One person's copy of a message; `draft` is its draft ID, if it is a draft."""

    id: str
    thread_id: str
    message: EmailMessage
    at: float
    labels: list[str] = field(default_factory=list[str])
    draft: str | None = None

    def header(self, name: str) -> str:
        return str(self.message.get(name, ""))

    @property
    def text(self) -> str:
        """Its readable part, for searches and snippets."""
        part = self.message.get_body(("plain", "html"))
        return "" if part is None else str(part.get_content())


class Mailboxes:
    """Every person's mail, newest first. A box is filled at its first use: few who start a simulator read mail."""

    def __init__(self, *, now: float) -> None:
        self._started = now
        self._people = frozenset(person.email for person in PEOPLE.values())
        self._boxes: dict[str, list[Mail]] = {}

    def _box(self, email: str) -> list[Mail]:
        if email not in self._boxes:
            self._boxes[email] = _first_mails(email, self._started)
        return self._boxes[email]

    def of(self, email: str) -> list[Mail]:
        """This person's mail, newest first; drafts among it."""
        return sorted(self._box(email), key=lambda mail: mail.at, reverse=True)

    def find(self, email: str, identifier: str) -> Mail | None:
        return next((mail for mail in self._box(email) if mail.id == identifier), None)

    def keep_draft(self, email: str, raw: bytes, *, thread: str | None, now: float) -> Mail:
        """Put a message among the drafts."""
        message = self._add_headers(email, raw, now)
        mail = Mail(new_id(), thread or new_id(), message, now, ["DRAFT"], draft=f"r{secrets.randbelow(10**18)}")
        self._box(email).append(mail)
        return mail

    def send(self, email: str, raw: bytes, *, thread: str | None, now: float) -> Mail:
        """Send a message: a copy for the sender, and one for everyone here that it goes to."""
        message = self._add_headers(email, raw, now)
        receivers = receivers_of(message)
        del message["Bcc"]
        mail = Mail(new_id(), thread or new_id(), message, now, ["SENT"])
        self._box(email).append(mail)
        for address in receivers:
            if address in self._people:
                self._box(address).append(Mail(new_id(), new_id(), message, now, ["INBOX", "UNREAD"]))
        return mail

    def _add_headers(self, email: str, raw: bytes, now: float) -> EmailMessage:
        message = _parse(raw)
        moment = datetime.fromtimestamp(now, UTC)
        for name, value in (
            ("From", email),
            ("Date", format_datetime(moment)),
            ("Message-ID", make_msgid(domain="m.example")),
        ):
            if message[name] is None:
                message[name] = value
        return message


def _first_mails(email: str, now: float) -> list[Mail]:
    welcome = _mail("Team <team@example.com>", email, "Welcome to the sandbox", "Nothing here is real.\n\nTeam")
    welcome.add_attachment(b"%PDF-1.7 nothing", maintype="application", subtype="pdf", filename="rules.pdf")
    news = EmailMessage(policy=SMTP)
    for name, value in (("From", "News <news@garden.example>"), ("To", email), ("Subject", "Gärten im März")):
        news[name] = value
    news.set_content(_NEWSLETTER, subtype="html")
    plan = _mail("Bob Example <bob@example.com>", email, "Lunch on Friday", "Shall we eat at one?\n")
    box: list[Mail] = []
    for number, (message, hours, labels) in enumerate(
        (
            (welcome, 72, ["INBOX"]),
            (news, 30, ["INBOX", "CATEGORY_PROMOTIONS"]),
            (plan, 2, ["INBOX", "UNREAD"]),
        ),
        start=1,
    ):
        identifier = f"18f{number:013x}"
        message["Message-ID"] = f"<{identifier}@m.example>"
        message["Date"] = format_datetime(datetime.fromtimestamp(now - hours * 3600, UTC))
        box.append(Mail(identifier, identifier, message, now - hours * 3600, labels))
    return box


def receivers_of(message: EmailMessage) -> Sequence[str]:
    """Every address that a message goes to."""
    lines = [str(value) for name in ("To", "Cc", "Bcc") for value in message.get_all(name, [])]
    return [address for _, address in getaddresses(lines) if address]


def new_id() -> str:
    """An id as Gmail's are: 64 bits in hexadecimal."""
    return secrets.token_hex(8)


def _mail(sender: str, to: str, subject: str, text: str) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["Subject"] = sender, to, subject
    message.set_content(text)
    return message


def _parse(raw: bytes) -> EmailMessage:
    return message_from_bytes(raw, EmailMessage, policy=SMTP)
