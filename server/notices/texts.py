"""The text of a notice: what happened, and the page where the person can act. Never arguments, tokens, or contents.

The exception is a call that a browser answers in its notification, which shows the whole call (`AnswerForm`).
Names come from agents and providers. They are shortened and can't start a new line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from server.deployment import Deployment
from server.http import page_texts
from server.http.page_texts import text
from vault import clients, users
from vault.notices.outbox import ASKED, CLIENT_ENDING, Notice
from vault.records import Event

SAMPLE_LIFETIME: Final = 300  # seconds in which a test is worth showing
_NAME_LIMIT: Final = 80  # characters


@dataclass(frozen=True, slots=True)
class Line:
    """One piece of news, and the address of its page."""

    words: str
    url: str = field(repr=False)  # may confirm or answer something


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What a browser posts to answer an approval in its notification; `words` is the whole call."""

    words: str = field(repr=False)
    path: str
    fields: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class NoticeMessage:
    """The content of a message; `url` is its link. With `answer`, the browser offers to answer immediately."""

    title: str
    lines: tuple[Line, ...]
    url: str = field(repr=False)
    kind: str  # of its notices, or `digest`
    lifetime: int = SAMPLE_LIFETIME  # seconds in which it is worth showing
    answer: AnswerForm | None = None

    @property
    def short(self) -> str:
        """The text without addresses, for what opens `url` itself."""
        return "\n".join(line.words for line in self.lines) or text("notice.test_body")

    @property
    def body(self) -> str:
        """The whole text."""
        if not self.lines:
            return f"{text('notice.test_body')}\n\n{self.url}"
        told = "\n\n".join(f"{line.words}\n{line.url}" for line in self.lines)
        return f"{told}\n\n{text('notice.footer')}"


async def message_of(deployment: Deployment, notices: Sequence[Notice]) -> NoticeMessage:
    """One message about one thing, or one digest of several."""
    lines = [await line_of(deployment, one) for one in notices]
    lifetime = max(one.expires_at for one in notices) - deployment.now()
    if len(lines) == 1:
        return NoticeMessage(lines[0].words, tuple(lines), lines[0].url, notices[0].kind, lifetime)
    title = text("notice.digest", number=len(lines))
    return NoticeMessage(title, tuple(lines), deployment.url("/"), "digest", lifetime)


async def line_of(deployment: Deployment, notice: Notice) -> Line:
    """What happened, in the language that is set."""
    event = notice.event
    client = None if event.client_id is None else await clients.get_client(deployment.database, event.client_id)
    provider = deployment.catalog.get(str(event.details.get("provider", "")))
    tool = str(event.details.get("tool", ""))
    spec = deployment.tool(tool) if tool else None
    is_request = notice.kind == "approval" and not tool
    name = "request" if is_request else notice.kind
    if event.kind == "connection.doubted":
        name = "doubted"
    if event.kind == CLIENT_ENDING:
        name = "client_ending"
    if notice.kind == "access":
        name = event.kind.replace(".", "_")
    words = text(
        f"notice.{name}",
        person=await _name_of(deployment, event),
        agent=_plain("" if client is None else client.name) or text("story.an_agent"),
        provider=text("story.the_provider") if provider is None else provider.title,
        account=_plain(str(event.details.get("account", ""))),
        tool=tool if spec is None else spec.title,
    )
    return Line(words, deployment.url(_path(notice.kind, event)))


async def _name_of(deployment: Deployment, event: Event) -> str:
    """Whose event it is, for notifications about someone else."""
    if event.kind != ASKED or event.user_id is None:
        return ""
    found = await users.get_user(deployment.database, event.user_id)
    return "" if found is None else _plain(found.name)


def sample(deployment: Deployment) -> NoticeMessage:
    """The test message."""
    return NoticeMessage(text("notice.test_title"), (), deployment.url("/notifications"), "test")


def confirmation(deployment: Deployment, secret: str) -> NoticeMessage:
    """The message to a new mail address: a link for its owner to open."""
    url = deployment.url(f"/notifications?confirm={quote(secret, safe='')}")
    return NoticeMessage(text("notice.confirm_title"), (Line(text("notice.confirm"), url),), url, "confirm")


def _path(kind: str, event: Event) -> str:
    if kind == "approval":
        approval = str(event.details.get("approval", ""))
        return f"/approvals/{quote(approval, safe='')}" if approval else "/approvals"
    if kind == "access":
        return f"/access-requests/{quote(str(event.details.get('request', '')), safe='')}"
    if kind == "agent":
        return f"/agents/{quote(event.client_id or '', safe='')}"
    if event.kind == CLIENT_ENDING:
        return f"/administration/tools/servers/{quote(str(event.details.get('provider', '')), safe='')}"
    return f"/connections/{quote(event.connection_id or '', safe='')}"


def _plain(name: str) -> str:
    shown = " ".join(page_texts.visible(name).split())
    return shown if len(shown) <= _NAME_LIMIT else shown[: _NAME_LIMIT - 1] + "…"
