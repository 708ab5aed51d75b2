"""The person's notifications: what they are about, when they are sent, and through which channels."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlencode, urlsplit
from zoneinfo import available_timezones

from starlette.responses import Response

from providers.outbound.addresses import url_problem
from server.deployment import Deployment
from server.errors import status_of
from server.http import pages
from server.http.page_texts import LANGUAGES, section, text
from server.notices import senders, services, texts, web_push
from server.notices.http_post import NotAccepted, Uncertain
from server.portal.approvals import notification_answers
from server.portal.forms import PageRefused
from server.portal.requests import OwnVisit
from server.sign_in.devices import describe_browser
from vault import limits, tickets, users
from vault.notices import channels
from vault.notices.channels import CHANNEL_KINDS, HOWS, KINDS, MOST_CHANNELS, PUSH, NoticeChannel, NoticeSettings
from vault.records import TicketPurpose

CONFIRM_LIFETIME: Final = 86400  # seconds
_MESSAGES_PER_HOUR: Final = 10  # tests and confirmations that one person can have sent
_YEAR: Final = 365 * 86400  # seconds
_TARGET_LIMIT: Final = 1000  # characters
# A dot-string at a domain in the terms of RFC 5321 §4.1.2, which covers every address in use.
_ADDRESS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])")
_TIME: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_TOPIC: Final = re.compile(r"/[A-Za-z0-9_-]{1,64}/?")  # https://docs.ntfy.sh/publish/


async def show(visit: OwnVisit) -> Response:
    """The choices, and the channels with the result of their last message."""
    return await _page(visit)


async def _page(visit: OwnVisit, *, error: str = "", target: str = "", kind: str = "") -> Response:
    deployment, database = visit.deployment, visit.deployment.database
    owned = await channels.list_channels(database, deployment.keys, visit.user.id)
    settings = await channels.get_settings(database, visit.user.id)
    confirm = visit.visit.query("confirm")
    done = visit.visit.query("done")
    context: dict[str, object] = {
        "channels": [
            (one, _failure(one), _endpoint(one), notification_answers.is_on(one, visit.session)) for one in owned
        ],
        "may_answer": deployment.settings.sign_in.answer_lifetime > 0,
        "push_key": _push_key(deployment),
        "kinds": KINDS,
        "hows": HOWS,
        "settings": settings,
        "zones": sorted(available_timezones()),
        "languages": LANGUAGES,
        "quiet_from": "" if settings.quiet is None else _clock(settings.quiet[0]),
        "quiet_until": "" if settings.quiet is None else _clock(settings.quiet[1]),
        "digest_at": _clock(settings.digest_at),
        "channel_kinds": [one for one in CHANNEL_KINDS if one not in _kinds_not_set_up(deployment)],
        "has_services": services.is_offered(deployment),
        "has_mail": deployment.settings.mail.host is not None,
        "is_full": len(owned) >= MOST_CHANNELS,
        "error": error,
        "target": target,
        "kind": kind,
        "confirm": await _to_confirm(visit, confirm) if confirm else None,
        "confirm_secret": confirm,
        "done": done if done in section("notifications_done") else "",
    }
    return visit.page("notifications.html", context, status=status_of("invalid_request") if error else 200)


def _kinds_not_set_up(deployment: Deployment) -> frozenset[str]:
    """The kinds of channels that the operator didn't set up."""
    missing = {"email": deployment.settings.mail.host is None, "service": not services.is_offered(deployment)}
    return frozenset(kind for kind, is_missing in missing.items() if is_missing)


def _failure(channel: NoticeChannel) -> str:
    return section("notice_failure").get(channel.failure, "") if channel.failure else ""


def _endpoint(channel: NoticeChannel) -> str:
    """The value with which the script recognizes its own browser's subscription; empty for other channels."""
    found = web_push.read_subscription(channel.target) if channel.kind == PUSH else None
    return "" if found is None else web_push.endpoint_hash(found.endpoint)


def _push_key(deployment: Deployment) -> str:
    """The key with which a browser subscribes, so that only this vault can send to it (RFC 8292 §4)."""
    key = web_push.application_key(deployment.keys.subkey(web_push.KEY))
    return web_push.encode(web_push.point_of(key.public_key()))


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _minute(value: str) -> int | None:
    found = _TIME.fullmatch(value)
    return None if found is None else int(found[1]) * 60 + int(found[2])


def _go_back(name: str) -> Response:
    return pages.go("/notifications?" + urlencode({"done": name}))


async def save(visit: OwnVisit) -> Response:
    """Store for which events, when, and in which language the person is notified."""
    form = visit.form
    begins, ends = _minute(form.one("quiet_from")), _minute(form.one("quiet_until"))
    digest_at, zone, language = _minute(form.one("digest_at")), form.one("zone").strip() or "UTC", form.one("language")
    kinds = {kind: form.one(f"how.{kind}") for kind in KINDS}
    if not set(kinds.values()) <= set(HOWS) or language not in LANGUAGES or digest_at is None:
        raise PageRefused("notice_choice")
    if zone not in available_timezones():
        return await _page(visit, error=text("notifications.zone_unknown"))
    quiet = None if begins is None or ends is None or begins == ends else (begins, ends)
    settings = NoticeSettings(zone, language, quiet, digest_at, kinds)
    async with visit.deployment.transaction() as transaction:
        await channels.save_settings(transaction, visit.user.id, settings)
    response = _go_back("saved")
    response.set_cookie(
        pages.LANGUAGE_COOKIE,
        language,
        max_age=_YEAR,
        secure=visit.deployment.public_url.startswith("https://"),
        httponly=True,
        samesite="lax",
    )
    return response


async def add(visit: OwnVisit) -> Response:
    """Add a channel. A mail address first gets a confirmation link."""
    deployment = visit.deployment
    kind, target = visit.form.one("kind"), visit.form.one("target").strip()
    shown = "" if kind == "service" else target  # such a URL contains a secret
    if problem := _problem(deployment, kind, target):
        return await _page(visit, error=problem, target=shown, kind=kind)
    if kind in {"email", "service"}:
        await _spend(visit)
    if kind == "service" and not await services.is_readable(deployment, target):
        return await _page(visit, error=text("notifications.bad_service"), kind=kind)
    added = await _add(visit, kind, _label(kind, target), target)
    if isinstance(added, str):
        return await _page(visit, error=added, target=shown, kind=kind)
    if kind != "email":
        return _go_back("added")
    return _go_back("confirm_sent" if await _send_confirmation(visit, added) else "failed")


async def add_browser(visit: OwnVisit) -> Response:
    """Add the browser that sent the form, by its subscription for this vault's key."""
    found = web_push.read_subscription(visit.form.one("subscription"))
    if found is None:
        raise PageRefused("notice_choice")
    if url_problem(found.endpoint, visit.deployment.http.policy) is not None:
        return await _page(visit, error=text("notifications.bad_push"))
    browser = describe_browser(visit.visit.request.headers.get("user-agent", ""))
    added = await _add(visit, PUSH, browser, found.to_json())
    return await _page(visit, error=added) if isinstance(added, str) else _go_back("added")


async def _add(visit: OwnVisit, kind: str, label: str, target: str) -> NoticeChannel | str:
    """The new channel, or why it can't be added."""
    deployment, user_id = visit.deployment, visit.user.id
    async with deployment.transaction() as transaction:
        await users.hold_user(transaction, user_id)
        owned = await channels.list_channels(transaction, deployment.keys, user_id)
        if len(owned) >= MOST_CHANNELS:
            return text("notifications.full", number=MOST_CHANNELS)
        if any(one.kind == kind and _place(one.kind, one.target) == _place(kind, target) for one in owned):
            return text("notifications.known")
        return await channels.add_channel(
            transaction,
            deployment.keys,
            user_id=user_id,
            kind=kind,
            label=label,
            target=target,
            now=deployment.now(),
        )


def _place(kind: str, target: str) -> str:
    """The address to which messages go, without the rest of the channel's data."""
    found = web_push.read_subscription(target) if kind == PUSH else None
    return target if found is None else found.to_json()


def _label(kind: str, target: str) -> str:
    """The address for pages, or only the host or service, since the rest of a URL may be a password."""
    if kind == "service":
        return services.scheme_of(target)
    return target if kind == "email" else urlsplit(target).hostname or ""


def _problem(deployment: Deployment, kind: str, target: str) -> str:
    """Why this can't be a channel; empty if it can."""
    if kind not in CHANNEL_KINDS or len(target) > _TARGET_LIMIT:
        raise PageRefused("notice_choice")
    if kind == "email":
        if deployment.settings.mail.host is None:
            return section("notice_failure")["no_mail"]
        return "" if _ADDRESS.fullmatch(target) else text("notifications.bad_address")
    if kind == "service":
        if not services.is_offered(deployment):
            return section("notice_failure")["no_services"]
        return "" if services.scheme_of(target) else text("notifications.bad_service")
    if url_problem(target, deployment.http.policy) is not None:
        return text("notifications.bad_url")
    if kind == "ntfy" and _TOPIC.fullmatch(urlsplit(target).path) is None:
        return text("notifications.bad_topic")
    return ""


async def _spend(visit: OwnVisit) -> None:
    """Count a message that the person asked for. Raises PageRefused at the limit."""
    deployment = visit.deployment
    bucket = f"notices:{visit.user.id}"
    async with deployment.transaction() as transaction:
        if await limits.spend(transaction, bucket, limit=_MESSAGES_PER_HOUR, window=3600, now=deployment.now()):
            return
    raise PageRefused("many_messages", kind="too_many_requests")


async def _send_confirmation(visit: OwnVisit, channel: NoticeChannel) -> bool:
    deployment = visit.deployment
    async with deployment.transaction() as transaction:
        secret = await tickets.issue(
            transaction,
            deployment.keys,
            purpose=TicketPurpose.CHANNEL,
            payload={"channel": channel.id},
            lifetime=CONFIRM_LIFETIME,
            now=deployment.now(),
            user_id=visit.user.id,
        )
    return await _send(visit, channel, texts.confirmation(deployment, secret))


async def _send(visit: OwnVisit, channel: NoticeChannel, message: texts.NoticeMessage) -> bool:
    """Send now, at the person's request; returns whether it was accepted."""
    deployment, failure = visit.deployment, ""
    try:
        await senders.send(deployment, channel, message)
    except NotAccepted as refusal:
        failure = refusal.code
    except Uncertain:
        failure = "uncertain"
    async with deployment.transaction() as transaction:
        await channels.record_result(transaction, channel.id, failure=failure, now=deployment.now())
    return not failure


async def _to_confirm(visit: OwnVisit, secret: str) -> NoticeChannel | None:
    """The channel that this link confirms, if it is the person's own and the link is still valid."""
    deployment = visit.deployment
    ticket = await tickets.peek(
        deployment.database, deployment.keys, secret, purpose=TicketPurpose.CHANNEL, now=deployment.now()
    )
    if ticket is None or ticket.user_id != visit.user.id:
        return None
    return await channels.get_channel(deployment.database, deployment.keys, str(ticket.payload.get("channel", "")))


async def confirm(visit: OwnVisit) -> Response:
    """Confirm a mail address by its link."""
    deployment, secret = visit.deployment, visit.form.one("secret")
    if await _to_confirm(visit, secret) is None:
        raise PageRefused("confirm_over", kind="gone")
    now = deployment.now()
    async with deployment.transaction() as transaction:
        ticket = await tickets.consume(transaction, deployment.keys, secret, purpose=TicketPurpose.CHANNEL, now=now)
        channel_id = str(ticket.payload.get("channel", ""))
        await channels.confirm_channel(transaction, channel_id, user_id=visit.user.id, now=now)
    return _go_back("confirmed")


async def change(visit: OwnVisit) -> Response:
    """Test or remove a channel, or send its confirmation again."""
    deployment = visit.deployment
    channel_id, action = str(visit.visit.request.path_params["channel"]), visit.form.one("action")
    channel = await channels.get_channel(deployment.database, deployment.keys, channel_id)
    if channel is None or channel.user_id != visit.user.id:
        raise PageRefused("no_channel", kind="not_found")
    match action:
        case "remove":
            async with deployment.transaction() as transaction:
                await channels.remove_channel(transaction, channel.id, user_id=visit.user.id)
            return _go_back("removed")
        case "answer" if channel.kind == PUSH and deployment.settings.sign_in.answer_lifetime > 0:
            await notification_answers.turn_on(visit, channel)
            return _go_back("answering")
        case "open" if channel.kind == PUSH:
            await notification_answers.turn_off(visit, channel)
            return _go_back("opening")
        case "test" if channel.confirmed_at is not None:
            await _spend(visit)
            return _go_back("tested" if await _send(visit, channel, texts.sample(deployment)) else "failed")
        case "confirm" if channel.confirmed_at is None:
            await _spend(visit)
            return _go_back("confirm_sent" if await _send_confirmation(visit, channel) else "failed")
        case _:
            raise PageRefused("notice_choice")
