"""Send a message: by mail through the operator's server, or by HTTP through the guarded client.

`NotAccepted`: it definitely didn't arrive, so it can be sent again. `Uncertain`: it may have arrived. HTTP goes
through `providers.outbound`, which checks every address. Apprise has its own HTTP, so it runs in a process that is
confined to the same addresses (`services`).
"""

from __future__ import annotations

import asyncio
import json
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from server.deployment import Deployment
from server.http.page_texts import text
from server.notice_settings import MailSettings
from server.notices import services, web_push
from server.notices.http_post import NotAccepted, Post, Uncertain, post
from server.notices.texts import NoticeMessage
from vault.notices.channels import GONE, PUSH, NoticeChannel

MAIL_TIMEOUT: Final = 15.0  # seconds for each step of SMTP
PUSH_TIMEOUT: Final = 10.0
_TITLE_LIMIT: Final = 250  # bytes of a title that ntfy takes


async def send(deployment: Deployment, channel: NoticeChannel, message: NoticeMessage) -> None:
    """Send one message. Raises NotAccepted or Uncertain."""
    if channel.kind == "email":
        await _send_mail(deployment, channel.target, message)
        return
    if channel.kind == "service":
        body = f"{message.url}\n\n{message.body}" if len(message.lines) > 1 else message.body  # its end may be cut
        await services.send(deployment, channel.target, title=message.title, body=body)
        return
    headers, body = {"Content-Type": "application/json"}, b""
    url = channel.target
    match channel.kind:
        case "ntfy":
            url, body = _for_ntfy(channel.target, message)
        case "push":
            url, headers, body = _for_browser(deployment, channel.target, message)
        case "slack":
            body = _json({"text": f"*{_escape(message.title)}*\n{_escape(message.body)}"})
        case _:
            lines = [{"text": line.words, "url": line.url} for line in message.lines]
            body = _json(
                {"title": message.title, "text": message.body, "url": message.url, "kind": message.kind, "lines": lines}
            )
    posted = Post(url, headers, body, peer="notices", sender=channel.user_id, timeout=PUSH_TIMEOUT)
    await _post(deployment, channel, posted)


def _json(content: dict[str, object]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def _escape(words: str) -> str:
    """Slack's control characters: https://docs.slack.dev/messaging/formatting-message-text#escaping"""
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _for_browser(deployment: Deployment, target: str, message: NoticeMessage) -> tuple[str, dict[str, str], bytes]:
    """Push services drop messages that can't be delivered within TTL seconds, and wake a phone depending on Urgency
    (RFC 8030 §5)."""
    subscription = web_push.read_target(target)
    if subscription is None:
        raise NotAccepted(GONE, is_final=True)
    is_urgent = message.kind == "approval"
    content = _json({**_words(message), "url": message.url, "kind": message.kind, **_actions(message)})
    key = web_push.application_key(deployment.keys.subkey(web_push.KEY))
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Encoding": "aes128gcm",
        "TTL": str(message.lifetime),
        "Urgency": "high" if is_urgent else "normal",
        "Authorization": web_push.authorization(
            key, subscription.endpoint, contact=_contact(deployment), now=deployment.now()
        ),
    }
    return subscription.endpoint, headers, web_push.encrypt(content, subscription)


def _words(message: NoticeMessage) -> dict[str, object]:
    if message.answer is not None:
        return {"title": message.title, "body": message.answer.words}
    title, body = (text("common.product"), message.title) if len(message.lines) == 1 else (message.title, message.short)
    return {"title": title, "body": body.encode()[: web_push.TEXT_LIMIT].decode(errors="ignore")}


def _actions(message: NoticeMessage) -> dict[str, object]:
    """The notification's actions, in addition to a click, which opens the page."""
    if message.kind != "approval":
        return {}
    if message.answer is None:
        return {"action": text("notice.review")}
    decisions = {
        decision: {"action": text(f"notice.{decision}"), "done": text(f"notice.{decision}_done")}
        for decision in ("allow", "deny")
    }
    return {"answer": {"path": message.answer.path, "fields": dict(message.answer.fields), "decisions": decisions}}


def _contact(deployment: Deployment) -> str:
    """The contact for push services (RFC 8292 §2.1)."""
    url = deployment.public_url
    return url if url.startswith("https://") else f"mailto:{_sender(deployment)}"


def _sender(deployment: Deployment) -> str:
    return deployment.settings.mail.sender or f"token-vault@{urlsplit(deployment.public_url).hostname}"


def _for_ntfy(target: str, message: NoticeMessage) -> tuple[str, bytes]:
    """Publishing as JSON goes to the root of the server: https://docs.ntfy.sh/publish/#publish-as-json"""
    parts = urlsplit(target)
    title = message.title.encode()[:_TITLE_LIMIT].decode(errors="ignore")
    content: dict[str, object] = {
        "topic": parts.path.strip("/"),
        "title": title,
        "message": message.body,
        "click": message.url,
        "priority": 4 if message.kind == "approval" else 3,
    }
    return f"{parts.scheme}://{parts.netloc}/", _json(content)


async def _post(deployment: Deployment, channel: NoticeChannel, message: Post) -> None:
    try:
        await post(deployment, message)
    except NotAccepted as refused:
        if channel.kind == PUSH and refused.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:  # RFC 8030 §7.3
            raise NotAccepted(GONE, is_final=True) from refused
        raise


async def _send_mail(deployment: Deployment, address: str, message: NoticeMessage) -> None:
    settings = deployment.settings.mail
    if settings.host is None:
        raise NotAccepted("no_mail", is_final=True)
    mail = EmailMessage()
    mail["From"] = _sender(deployment)
    mail["To"] = address
    mail["Subject"] = message.title
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid(domain="token-vault.invalid")
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834 §5
    mail.set_content(message.body)
    await asyncio.to_thread(_deliver, settings, mail)


def _deliver(settings: MailSettings, mail: EmailMessage) -> None:
    """One connection, one message; in a thread, since it waits."""
    try:
        connection = _open(settings)
    except smtplib.SMTPAuthenticationError as error:
        raise NotAccepted("mail_sign_in") from error
    except (smtplib.SMTPException, ssl.SSLError, OSError) as error:
        raise NotAccepted("unreachable") from error
    try:
        connection.send_message(mail)
    except smtplib.SMTPRecipientsRefused as error:
        is_final = all(code >= 500 for code, _ in error.recipients.values())
        raise NotAccepted("refused", is_final=is_final) from error
    except smtplib.SMTPResponseException as error:
        raise NotAccepted("refused" if error.smtp_code >= 500 else "busy", is_final=error.smtp_code >= 500) from error
    except (smtplib.SMTPException, OSError) as error:
        raise Uncertain from error
    finally:
        connection.close()


def _open(settings: MailSettings) -> smtplib.SMTP:
    context = ssl.create_default_context()
    host, password = settings.host or "", settings.secret()
    if settings.security == "tls":
        connection: smtplib.SMTP = smtplib.SMTP_SSL(host, settings.port, timeout=MAIL_TIMEOUT, context=context)
    else:
        connection = smtplib.SMTP(host, settings.port, timeout=MAIL_TIMEOUT)
    try:
        if settings.security == "starttls":
            connection.starttls(context=context)
        if settings.username is not None and password is not None:
            connection.login(settings.username, password)
    except BaseException:
        connection.close()
        raise
    return connection
