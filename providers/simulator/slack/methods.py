"""What each method of the Slack face does: scopes first, then arguments, object and state, as Slack checks them."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import JsonValue

from providers.simulator.accounts import PEOPLE, Person
from providers.simulator.slack.caller import Caller, SlackRefused
from providers.simulator.state.workspace import (
    APP_ID,
    BOT_USER,
    PEOPLE_BY_ID,
    TEAM_ID,
    TEAM_NAME,
    SimulatedChannel,
    SimulatedMessage,
)

MAX_TEXT = 40_000
_TYPE_SCOPES = {"public_channel": "channels", "private_channel": "groups", "im": "im", "mpim": "mpim"}
Method = Callable[[Caller], dict[str, JsonValue]]


def _auth_test(caller: Caller) -> dict[str, JsonValue]:
    person = PEOPLE_BY_ID.get(caller.user)
    return {
        "url": "https://sandbox.slack.com/",
        "team": TEAM_NAME,
        "user": "sandbox-bot" if person is None else person.name,
        "team_id": TEAM_ID,
        "user_id": caller.user,
        "is_enterprise_install": False,
    }


def _post_message(caller: Caller) -> dict[str, JsonValue]:
    caller.require("chat:write")
    channel, text = caller.channel(), caller.text("text") or ""
    if not text and not caller.arguments.get("blocks"):
        raise SlackRefused("no_text")
    if len(text) > MAX_TEXT:
        raise SlackRefused("msg_too_long")
    if channel.archived:
        raise SlackRefused("is_archived")
    if caller.user not in channel.members and caller.user != BOT_USER:
        raise SlackRefused("not_in_channel")
    thread = caller.text("thread_ts")
    if thread is not None and caller.workspace.message(channel, thread) is None:
        raise SlackRefused("thread_not_found")
    draft = SimulatedMessage("", caller.user, text, thread, APP_ID)
    message = caller.workspace.post(channel, draft, now=caller.now)
    person = PEOPLE_BY_ID.get(caller.user)
    caller.write(
        "posts",
        caller.now,
        channel=channel.id,
        channel_name=channel.name or "direct message",
        user=caller.user,
        user_name="sandbox-bot" if person is None else person.name,
        text=text,
        ts=message.ts,
        thread_ts=thread,
        token_family=caller.token.family.label,
    )
    return {"channel": channel.id, "ts": message.ts, "message": _message(message)}


def _update_message(caller: Caller) -> dict[str, JsonValue]:
    caller.require("chat:write")
    channel, message = _own_message(caller, "cant_update_message")
    message.text, message.edited = caller.text("text") or message.text, True
    return {"channel": channel.id, "ts": message.ts, "text": message.text, "message": _message(message)}


def _delete_message(caller: Caller) -> dict[str, JsonValue]:
    caller.require("chat:write")
    channel, message = _own_message(caller, "cant_delete_message")
    channel.messages.remove(message)
    return {"channel": channel.id, "ts": message.ts}


def _own_message(caller: Caller, refusal: str) -> tuple[SimulatedChannel, SimulatedMessage]:
    channel = caller.channel()
    message = caller.workspace.message(channel, caller.text("ts") or "")
    if message is None:
        raise SlackRefused("message_not_found")
    if message.user != caller.user:
        raise SlackRefused(refusal)
    return channel, message


def _list_conversations(caller: Caller) -> dict[str, JsonValue]:
    types = (caller.text("types") or "public_channel").replace(" ", "").split(",")
    if not set(types) <= set(_TYPE_SCOPES):
        raise SlackRefused("invalid_types")
    for kind in types:
        caller.require(f"{_TYPE_SCOPES[kind]}:read")
    channels = [
        _channel(channel, caller.user)
        for channel in caller.workspace.visible_to(caller.user)
        if channel.kind in types and not (channel.archived and caller.flag("exclude_archived"))
    ]
    page, cursor = caller.page(channels, cap=caller.page_size)
    return {"channels": page, "response_metadata": {"next_cursor": cursor}}


def _conversation_info(caller: Caller) -> dict[str, JsonValue]:
    channel = caller.channel()
    caller.require(f"{channel.scope_prefix}:read")
    return {"channel": _channel(channel, caller.user)}


def _conversation_members(caller: Caller) -> dict[str, JsonValue]:
    channel = caller.channel()
    caller.require(f"{channel.scope_prefix}:read")
    page, cursor = caller.page([{"id": member} for member in sorted(channel.members)], cap=caller.page_size)
    members: list[JsonValue] = [member["id"] for member in page if isinstance(member, dict)]
    return {"members": members, "response_metadata": {"next_cursor": cursor}}


def _open_conversation(caller: Caller) -> dict[str, JsonValue]:
    caller.require("im:write")
    others = (caller.text("users") or "").split(",")
    if len(others) != 1 or others[0] not in PEOPLE_BY_ID:
        raise SlackRefused("user_not_found")
    return {"channel": {"id": caller.workspace.open_direct(caller.user, others[0]).id}}


def _history(caller: Caller) -> dict[str, JsonValue]:
    channel = caller.channel()
    caller.require(f"{channel.scope_prefix}:history")
    if caller.user not in channel.members and channel.kind != "public_channel":
        raise SlackRefused("not_in_channel")
    oldest, latest = caller.text("oldest"), caller.text("latest")
    messages = [
        _message(message)
        for message in reversed(channel.messages)
        if (oldest is None or float(message.ts) > _timestamp(oldest))
        and (latest is None or float(message.ts) < _timestamp(latest))
        and message.thread_ts in {None, message.ts}
    ]
    page, cursor = caller.page(messages, cap=100)
    return {"messages": page, "has_more": cursor != "", "pin_count": 0, **_metadata(cursor)}


def _replies(caller: Caller) -> dict[str, JsonValue]:
    channel = caller.channel()
    caller.require(f"{channel.scope_prefix}:history")
    root = caller.text("ts") or ""
    if caller.workspace.message(channel, root) is None:
        raise SlackRefused("thread_not_found")
    thread = [_message(message) for message in channel.messages if root in {message.ts, message.thread_ts}]
    page, cursor = caller.page(thread, cap=100)
    return {"messages": page, "has_more": cursor != "", **_metadata(cursor)}


def _user_info(caller: Caller) -> dict[str, JsonValue]:
    caller.require("users:read")
    person = PEOPLE_BY_ID.get(caller.text("user") or "")
    if person is None:
        raise SlackRefused("user_not_found")
    return {"user": _user(person, caller)}


def _list_users(caller: Caller) -> dict[str, JsonValue]:
    caller.require("users:read")
    page, cursor = caller.page([_user(person, caller) for person in PEOPLE.values()], cap=caller.page_size)
    return {"members": page, "response_metadata": {"next_cursor": cursor}}


def _lookup_by_email(caller: Caller) -> dict[str, JsonValue]:
    caller.require("users:read.email")
    email = caller.text("email")
    person = next((person for person in PEOPLE.values() if person.email == email), None)
    if person is None:
        raise SlackRefused("users_not_found")
    return {"user": _user(person, caller)}


def _search_messages(caller: Caller) -> dict[str, JsonValue]:
    caller.require("search:read")
    words = (caller.text("query") or "").lower().split()
    if not words:
        raise SlackRefused("no_query")
    found = [
        (channel, message)
        for channel in caller.workspace.visible_to(caller.user)
        for message in channel.messages
        if all(word in message.text.lower() for word in words)
    ]
    found.sort(key=lambda pair: float(pair[1].ts), reverse=caller.text("sort_dir") != "asc")
    count, cursor = caller.text("count") or "20", caller.text("cursor") or "*"
    if not count.isdigit() or not 0 < int(count) <= 100:
        raise SlackRefused("invalid_arguments")
    begin = 0 if cursor == "*" else _search_offset(cursor)
    end = begin + int(count)
    paging: dict[str, JsonValue] = {"count": int(count), "total": len(found)}
    if end < len(found):
        paging["next_cursor"] = f"search:{end}"
    return {
        "query": caller.text("query"),
        "messages": {"matches": [_match(*one) for one in found[begin:end]], "paging": paging},
    }


def _search_offset(cursor: str) -> int:
    word, _, number = cursor.partition(":")
    if word != "search" or not number.isdigit():
        raise SlackRefused("invalid_cursor")
    return int(number)


def _match(channel: SimulatedChannel, message: SimulatedMessage) -> dict[str, JsonValue]:
    person = PEOPLE_BY_ID.get(message.user)
    return {
        "type": "message",
        "channel": {"id": channel.id, "name": channel.name},
        "user": message.user,
        "username": "sandbox-bot" if person is None else person.name,
        "ts": message.ts,
        "text": message.text,
        "permalink": f"https://sandbox.slack.com/archives/{channel.id}/p{message.ts.replace('.', '')}",
    }


def _add_reaction(caller: Caller) -> dict[str, JsonValue]:
    caller.require("reactions:write")
    message = caller.workspace.message(caller.channel(), caller.text("timestamp") or "")
    name = caller.text("name")
    if message is None:
        raise SlackRefused("message_not_found")
    if name is None:
        raise SlackRefused("invalid_name")
    users = message.reactions.setdefault(name, [])
    if caller.user in users:
        raise SlackRefused("already_reacted")
    users.append(caller.user)
    return {}


def _team_info(caller: Caller) -> dict[str, JsonValue]:
    caller.require("team:read")
    return {"team": {"id": TEAM_ID, "name": TEAM_NAME, "domain": "sandbox"}}


def _message(message: SimulatedMessage) -> dict[str, JsonValue]:
    body: dict[str, JsonValue] = {
        "type": "message",
        "ts": message.ts,
        "user": message.user,
        "text": message.text,
        "team": TEAM_ID,
    }
    if message.thread_ts is not None:
        body["thread_ts"] = message.thread_ts
    if message.app_id is not None:
        body["app_id"] = message.app_id
    if message.edited:
        body["edited"] = {"user": message.user, "ts": message.ts}
    if message.reactions:
        body["reactions"] = [
            {"name": name, "users": list[JsonValue](users), "count": len(users)}
            for name, users in message.reactions.items()
        ]
    return body


def _channel(channel: SimulatedChannel, user: str) -> dict[str, JsonValue]:
    body: dict[str, JsonValue] = {
        "id": channel.id,
        "is_channel": channel.kind == "public_channel",
        "is_group": channel.kind == "private_channel",
        "is_im": channel.kind == "im",
        "is_private": channel.kind != "public_channel",
        "is_archived": channel.archived,
        "is_general": channel.name == "general",
        "created": channel.created,
    }
    if channel.kind == "im":
        return {**body, "user": next((member for member in sorted(channel.members) if member != user), user)}
    return {
        **body,
        "name": channel.name,
        "name_normalized": channel.name,
        "is_member": user in channel.members,
        "num_members": len(channel.members),
        "topic": {"value": channel.topic, "creator": "", "last_set": 0},
        "purpose": {"value": "", "creator": "", "last_set": 0},
    }


def _user(person: Person, caller: Caller) -> dict[str, JsonValue]:
    profile: dict[str, JsonValue] = {"real_name": person.display_name, "display_name": person.name}
    if "users:read.email" in caller.token.scopes:
        profile["email"] = person.email
    return {
        "id": person.slack_id,
        "team_id": TEAM_ID,
        "name": person.name,
        "real_name": person.display_name,
        "tz": person.time_zone,
        "deleted": False,
        "is_bot": False,
        "profile": profile,
    }


def _metadata(cursor: str) -> dict[str, JsonValue]:
    return {"response_metadata": {"next_cursor": cursor}} if cursor else {}


def _timestamp(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise SlackRefused("invalid_ts_latest") from None


METHODS: dict[str, Method] = {
    "auth.test": _auth_test,
    "chat.postMessage": _post_message,
    "chat.update": _update_message,
    "chat.delete": _delete_message,
    "conversations.list": _list_conversations,
    "conversations.info": _conversation_info,
    "conversations.members": _conversation_members,
    "conversations.open": _open_conversation,
    "conversations.history": _history,
    "conversations.replies": _replies,
    "users.info": _user_info,
    "users.list": _list_users,
    "users.lookupByEmail": _lookup_by_email,
    "reactions.add": _add_reaction,
    "search.messages": _search_messages,
    "team.info": _team_info,
}
