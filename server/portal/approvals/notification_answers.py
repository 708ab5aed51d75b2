"""Answers to approvals in browser notifications, for a person who signed in to that browser with a passkey.

Nobody can approve what they haven't seen: the notification shows the whole call. A longer call opens its page instead,
as does everything that deletes or overwrites data, releases a token, or isn't a call. The push message, which only that
browser can read, contains the form that its worker posts. The form works once, like its approval, and only in the
browser that turned this on, with the cookie of that session.
"""

from __future__ import annotations

import hashlib
import hmac
import textwrap
import unicodedata
from collections.abc import Iterator
from typing import Final

from starlette.responses import Response

from providers.tools.spec import ToolSpec
from server.connecting import approvals as approve
from server.connecting import lookups
from server.deployment import Deployment
from server.http import pages
from server.http.page_texts import text
from server.notices import web_push
from server.notices.texts import AnswerForm
from server.portal import csrf, texts
from server.portal.approvals.asked_call import AskedCall, Piece, asked_call, is_exact
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from server.sign_in import step_up
from vault import clients
from vault.approvals import approvals
from vault.approvals.approvals import RELEASE, Approval
from vault.notices import channels
from vault.notices.channels import PUSH, NoticeChannel
from vault.records import ApprovalState, Client, Session
from vault.sign_in import sessions

MOST_LINES: Final = 4  # the length that desktops and phones show of a notification without cutting it
_WIDTH: Final = 40  # characters per line
_KEY: Final = "answers"
_DECISIONS: Final = frozenset({"allow", "deny"})


def is_on(channel: NoticeChannel, session: Session) -> bool:
    """Whether this session turned on answers in its browser's notifications."""
    return session.token_hash == _session_hash(channel)


def _session_hash(channel: NoticeChannel) -> bytes | None:
    found = web_push.read_target(channel.target) if channel.kind == PUSH else None
    return None if found is None else found.answering


async def turn_on(visit: OwnVisit, channel: NoticeChannel) -> None:
    """Allow answers in this browser's notifications while its session lasts. Raises StepUpRequired."""
    await step_up.check_may_answer(visit.deployment, visit.session, back="/notifications")
    await _set(visit, channel, visit.session.token_hash)


async def turn_off(visit: OwnVisit, channel: NoticeChannel) -> None:
    """Make this browser's notifications only open pages."""
    await _set(visit, channel, None)


async def _set(visit: OwnVisit, channel: NoticeChannel, answering: bytes | None) -> None:
    def change(target: str) -> str:
        found = web_push.read_target(target)
        return target if found is None else found.answered_by(answering).to_json()

    async with visit.deployment.transaction() as transaction:
        await channels.change_target(transaction, visit.deployment.keys, channel.id, change)


async def form_of(deployment: Deployment, channel: NoticeChannel, approval_id: str) -> AnswerForm | None:
    """The form in the notification about this approval; None if it can only be answered on its page."""
    approval = await approvals.get(deployment.database, deployment.keys, approval_id)
    session = await _session(deployment, channel)
    if approval is None or session is None or approval.user_id != channel.user_id:
        return None
    spec = _answerable(deployment, approval)
    words = None if spec is None else await _words(deployment, approval, spec)
    if words is None:
        return None
    path = f"/approvals/{approval.id}/answer"
    fields = {
        csrf.FIELD: csrf.token_of_session(deployment.keys.subkey("csrf"), session.token_hash, action=path),
        "channel": channel.id,
        "answer": _token(deployment, approval.id, channel.id, session),
    }
    return AnswerForm(words, path, fields)


async def _session(deployment: Deployment, channel: NoticeChannel) -> Session | None:
    """The live session that turned this on, if its person used a passkey recently enough."""
    answering, settings = _session_hash(channel), deployment.settings.sign_in
    if answering is None:
        return None
    now, idle = deployment.now(), settings.session_idle_lifetime
    found = await sessions.get_session(deployment.database, answering, now=now, idle_lifetime=idle)
    if found is None or found[1].id != channel.user_id:
        return None
    return found[0] if found[0].is_proved(now, lifetime=settings.answer_lifetime) else None


def _answerable(deployment: Deployment, approval: Approval) -> ToolSpec | None:
    """The tool of a call that can be answered in a notification; None for all others and for closed approvals."""
    spec = deployment.tool(approval.tool)
    is_open = approval.status(deployment.now()) == ApprovalState.PENDING.value
    if not is_open or spec is None or spec.destructive or approval.is_request or approval.tool == RELEASE:
        return None
    return spec


def _token(deployment: Deployment, approval_id: str, channel_id: str, session: Session) -> str:
    """A token that proves that this channel's message about this approval delivered the form to this session's
    browser."""
    bound = f"{approval_id}\n{channel_id}\n{session.token_hash.hex()}"
    return hmac.new(deployment.keys.subkey(_KEY), bound.encode(), hashlib.sha256).hexdigest()


async def _words(deployment: Deployment, approval: Approval, spec: ToolSpec) -> str | None:
    """The agent and the whole call on a few lines; None if it is longer or can't be shown as exactly as on its page."""
    client = await clients.get_client(deployment.database, approval.client_id)
    known = await lookups.find(deployment, approval, spec)
    call = asked_call(texts.tool_title(spec), approval.arguments, spec.presentation, known)
    if client is None or not known.is_whole or not is_exact(call, approval.arguments, spec.presentation):
        return None
    lines = [_asked_by(approval, client), *_lines(call)]
    return "\n".join(lines) if sum(map(_shown_lines, lines)) <= MOST_LINES else None


def _asked_by(approval: Approval, client: Client) -> str:
    """Starts with the account, since the agent chose its own name."""
    name = "asked_by_unverified" if texts.is_unverified(client) else "asked_by"
    account, agent = (" ".join(texts.visible(one).split()) for one in (approval.account, client.name))
    return text(f"notice.{name}", account=account, agent=agent or text("story.an_agent"))


def _shown_lines(line: str) -> int:
    """The number of lines that the text wraps to."""
    letters = "".join(one * 2 if unicodedata.east_asian_width(one) in "WF" else one for one in line)
    return max(1, len(textwrap.wrap(letters, _WIDTH)))


def _lines(call: AskedCall) -> Iterator[str]:
    sentence = "".join(map(_of_piece, call.pieces))
    yield sentence[:1].upper() + sentence[1:]
    for label, people in call.people:
        yield f"{label}: {', '.join(people)}"
    for one in call.texts:
        yield from f"{one.label}: {one.value}".split("\n")
    for change in call.changes:
        yield from f"{change.label}: {change.before} → {change.after}".split("\n")
    for label, value in call.facts:
        yield f"{label}: {_of_piece(Piece('', value))}"


def _of_piece(piece: Piece) -> str:
    """Shows a name next to its id, so that an id can't pass for a name."""
    value = piece.value
    if value is None:
        return piece.words
    return piece.words + (f"{value.name} ({value.shown})" if value.name else value.shown)


async def answer(visit: OwnVisit) -> Response:
    """Record an answer in a notification. If it is refused, the person can answer on the approval's page."""
    approval_id, decision = str(visit.visit.request.path_params["approval"]), visit.form.one("decision")
    if decision not in _DECISIONS:
        raise PageRefused("no_decision")
    await _check_browser(visit, approval_id)
    approval = await _load(visit, approval_id)
    try:
        await approve.decide(
            visit.deployment,
            approval,
            user=visit.user,
            session=visit.session,
            is_approved=decision == "allow",
            method="notification",
        )
    except approve.ApproveRefused as refused:
        raise PageRefused("too_late", refused.description, kind=refused.kind) from refused
    return pages.secure(Response(status_code=204))


async def _check_browser(visit: OwnVisit, approval_id: str) -> None:
    """Raises PageRefused unless the browser that turned this on posts, from its worker, the form in its message."""
    deployment, session = visit.deployment, visit.session
    channel = await channels.get_channel(deployment.database, deployment.keys, visit.form.one("channel"))
    sent = visit.form.one("answer").encode()
    if visit.visit.request.headers.getlist("sec-fetch-site") != ["same-origin"]:
        raise _on_its_page("not a page's worker")
    if channel is None or channel.user_id != visit.user.id:
        raise _on_its_page("channel is gone")
    if not is_on(channel, session):
        raise _on_its_page("turned on by another session, or off")
    if not session.is_proved(deployment.now(), lifetime=deployment.settings.sign_in.answer_lifetime):
        raise _on_its_page("passkey too long ago")
    if not hmac.compare_digest(_token(deployment, approval_id, channel.id, session).encode(), sent):
        raise _on_its_page("token")


async def _load(visit: OwnVisit, approval_id: str) -> Approval:
    try:
        approval = await approve.load(visit.deployment, approval_id, user=visit.user)
    except approve.ApproveRefused as refused:
        raise PageRefused("not_yours", refused.description, kind=refused.kind) from refused
    is_open = approval.status(visit.deployment.now()) == ApprovalState.PENDING.value
    if is_open and _answerable(visit.deployment, approval) is None:
        raise _on_its_page("needs its page")
    return approval


def _on_its_page(detail: str) -> PageRefused:
    return PageRefused("answer_on_page", kind="forbidden", detail=detail)
