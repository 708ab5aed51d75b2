"""How Slack's document names scopes, and which parameters decide about them.

`tests.generating.openapi_services` lists all services.
"""

from __future__ import annotations

from typing import Final

from tests.generating.published.service import Part, Service

_SLACK_CHANNEL: Final = "C[A-Z0-9]+"
_SLACK_OWN: Final = {"user": "", "name": "(?!(?i:email))[A-Za-z0-9_]*"}
_SLACK_PROFILE: Final = " ".join(
    f"profile/{name}"
    for name in (
        *("display_name", "fields", "first_name", "last_name", "phone", "pronouns", "real_name", "skype", "start_date"),
        *("status_emoji", "status_expiration", "status_text", "title"),
    )
)
_SLACK_KINDS: Final = (
    Part("channels:read", {"types": "(public_channel)?"}),
    Part("groups:read", {"types": "private_channel"}),
    Part("im:read", {"types": "im"}),
    Part("mpim:read", {"types": "mpim"}),
)
# The message comes along, and Slack asks for no history scope. So the caller needs those of every kind of conversation
# that the ID can mean.
_SLACK_REACTIONS: Final = (
    Part(
        "reactions:read",
        {"channel": _SLACK_CHANNEL},
        needs=("channels:history", "groups:history", "mpim:history"),
    ),
    Part("reactions:read", {"channel": "G[A-Z0-9]+"}, needs=("groups:history", "mpim:history")),
    Part("reactions:read", {"channel": "D[A-Z0-9]+"}, needs=("im:history",)),
)


def _slack_channels(verb: str) -> tuple[Part, ...]:
    """Slack's scopes for one conversation: its ID doesn't show whether it is public, private, or of several people."""
    one, private, several = f"channels:{verb}", f"groups:{verb}", f"mpim:{verb}"
    return (
        Part(one, {"channel": _SLACK_CHANNEL}, (private, several)),
        Part(private, {"channel": "[CG][A-Z0-9]+"}, (one, several)),
        Part(several, {"channel": "[CG][A-Z0-9]+"}, (one, private)),
        Part(f"im:{verb}", {"channel": "D[A-Z0-9]+"}),
    )


SLACK: Final = Service(
    "github.com/slackapi/slack-api-specs",
    file="web-api/slack_web_openapi_v2.json",
    api="web",
    security="slackAuth",
    renamed=(("chat:write:user", "chat:write"),),
    ignored=frozenset({"chat:write:bot", "none"}),
    posts_reads=True,
    has_contract=False,
    paths=(
        r"/(chat[.](postMessage|update|delete|meMessage|postEphemeral|scheduleMessage|deleteScheduledMessage)"
        r"|conversations[.].*|users[.](conversations|info|list|lookupByEmail|getPresence|setPresence|profile[.][gs]et)"
        r"|files[.](list|info)|reactions[.](?!list).*|pins[.].*|reminders[.].*|search[.]messages|team[.](info|profile[.]get)"
        r"|usergroups[.].*|emoji[.]list|dnd[.].*)"
    ),
    given=(("GET /users[.]lookupByEmail", "users:read.email users:read"),),  # it answers with the whole profile
    widened=((r"GET /users[.](info|list|profile[.]get)", "users:read.email"),),
    newer=(  # as docs.slack.dev/reference/methods has them today
        (r"POST /chat[.](postMessage|postEphemeral|scheduleMessage|update)", "markdown_text"),
        ("POST /chat[.]update", "reply_broadcast"),
        ("GET /conversations[.]info", "include_locale include_num_members"),
        ("GET /users[.](info|list)", "include_locale"),
        ("GET /usergroups[.]list", "include_count include_disabled"),
        ("GET /usergroups[.]users[.]list", "include_disabled"),
        ("GET /users[.]profile[.]get", "include_labels"),
        ("POST /conversations[.]open", "prevent_creation"),
        ("POST /reminders[.]add", "recurrence"),
        ("POST /users[.]profile[.]set", _SLACK_PROFILE),
        ("GET /search[.]messages", "cursor"),
        (r"GET /(conversations[.]list|users[.](conversations|list)|search[.]messages)", "team_id"),
        ("GET /team[.]info", "domain"),
    ),
    omitted=(
        (".*", "token"),
        ("POST /users[.]profile[.]set", "profile"),  # only the listed members
        ("POST /chat[.].*", "username icon_emoji icon_url"),  # chat:write.customize
        (r"(GET|POST) /reactions[.].*", "file file_comment"),  # files:read
        ("POST /conversations[.]open", "return_im"),  # with the latest message
    ),
    divided=(
        (r"GET /(conversations[.]list|users[.]conversations)", _SLACK_KINDS),
        ("GET /conversations[.]info", _slack_channels("read")[:2]),  # of a direct message, it shows the latest text
        ("GET /conversations[.](history|replies)", _slack_channels("history")),
        ("GET /conversations[.]members", _slack_channels("read")),
        ("POST /conversations[.]mark", _slack_channels("write")),
        ("POST /conversations[.]close", _slack_channels("write")[2:]),
        (
            "POST /conversations[.]create",
            (
                Part("channels:write", {"is_private": "(false|0)?"}),
                Part("groups:write", {"is_private": "true|1"}),
            ),
        ),
        ("POST /conversations[.]join", (Part("channels:write", {"channel": _SLACK_CHANNEL}),)),
        (
            "POST /conversations[.]open",
            (
                Part("im:write", {"users": "[UW][A-Z0-9]+", "channel": ""}),
                Part("mpim:write", {"users": "[UW][A-Z0-9]+(,[UW][A-Z0-9]+)+", "channel": ""}),
            ),
        ),
        ("POST /conversations[.].*", _slack_channels("write")[:2]),
        (  # an admin can name others, and change the address with which one signs in
            "POST /users[.]profile[.]set",
            (Part("users.profile:write", _SLACK_OWN, exact=True, json_fields=("profile",)),),
        ),
        ("GET /reactions[.]get", _SLACK_REACTIONS),
        ("POST /reminders[.]add", (Part("reminders:write", {"user": ""}),)),
    ),
)
