"""The fifty most used services have three kinds of tools, and rules that keep the scopes of the newest tools apart.

The fifty are the first in the survey of providers (`SURVEY`), which starts with what peers and their users name most,
by the file here that has their API: Gmail, Drive, and the like are `google`, and `github-oauth-app` calls what `github`
does.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from providers.api.rules import Call, allows
from providers.definitions.catalog import load_catalog
from providers.tools.builtin import builtin_tools
from providers.tools.spec import ToolSpec
from tests.generating.shipped_tools import shipped_tools
from tests.providers.test_provider_files import SURVEY

CATALOG = load_catalog()
SPECS = (*builtin_tools(), *shipped_tools().values())
THE_FIFTY = (
    "google microsoft power-bi slack github gitlab bitbucket atlassian linear notion asana clickup monday airtable "
    "trello salesforce hubspot pipedrive zoho attio zendesk intercom front gong zoom calendly cal-com dropbox box "
    "figma miro canva discord x linkedin facebook instagram reddit tiktok spotify stripe-apps stripe-connect shopify "
    "quickbooks xero square paypal docusign mailchimp pagerduty"
)
FIFTY = tuple(THE_FIFTY.split())
KINDS = frozenset({"look-up", "list or search", "write"})
SEARCHED = frozenset({"query", "words", "email", "since", "until", "start", "end"})  # arguments that name no one thing


def kinds_of(spec: ToolSpec) -> frozenset[str]:
    """A read of one thing is a look-up; a read of its contents is both that and a list."""
    if not spec.read_only:
        return frozenset({"write"})
    properties = spec.output_schema["properties"]
    assert isinstance(properties, dict)
    is_list = any(one.get("type") == "array" and "$ref" in one.get("items", {}) for one in properties.values())
    names_one = bool(frozenset(spec.input_schema.get("required", ())) - SEARCHED)
    return frozenset({"list or search"} if is_list else {"look-up"}) | ({"look-up"} if names_one else frozenset())


def missing_kinds(specs: Iterable[ToolSpec]) -> frozenset[str]:
    """The kinds that these tools don't cover; all kinds if there are fewer than three tools."""
    found = [kinds_of(spec) for spec in specs]
    return KINDS if len(found) < len(KINDS) else KINDS - frozenset[str]().union(*found)


def test_the_fifty_are_the_first_of_the_survey() -> None:
    files = (CATALOG.resolve(name)[0].name for name in SURVEY.split())
    assert tuple(dict.fromkeys(name for name in files if name != "github-oauth-app"))[:50] == FIFTY


@pytest.mark.parametrize("service", FIFTY)
def test_a_service_has_a_look_up_a_list_or_search_and_a_write(service: str) -> None:
    specs = [spec for spec in SPECS if spec.provider == service]
    assert missing_kinds(specs) == frozenset()


def test_without_one_of_its_tools_a_service_lacks_a_kind() -> None:
    tiktok = [spec for spec in SPECS if spec.provider == "tiktok"]
    assert missing_kinds(tiktok) == frozenset()
    assert missing_kinds(spec for spec in tiktok if spec.read_only) == {"write"}
    assert missing_kinds(spec for spec in tiktok if "list or search" not in kinds_of(spec)) == {"list or search"}


NOTE = {"data": {"title": "x"}}
POST = "/v2/post/publish/inbox/video/init"
PULLED = {"source_info": {"source": "PULL_FROM_URL"}}
PAGE = {"q": "author", "author": "urn:li:organization:1"}


@pytest.mark.parametrize(
    ("service", "call", "least", "other"),
    [
        ("attio", Call("main", "POST", "/v2/objects/records/search"), "read", ""),
        ("attio", Call("main", "POST", "/v2/notes", NOTE), "write", "read"),
        ("gong", Call("main", "GET", "/v2/calls"), "api:calls:read:basic", "api:users:read"),
        ("gong", Call("main", "POST", "/v2/calls/transcript"), "api:calls:read:transcript", "api:calls:read:basic"),
        ("gong", Call("main", "GET", "/v2/users"), "api:users:read", "api:calls:read:basic"),
        ("gong", Call("main", "PUT", "/v2/calls/users-access"), "api:call-user-access:write", "api:users:read"),
        ("tiktok", Call("main", "GET", "/v2/user/info", {"fields": "open_id"}), "user.info.basic", "video.list"),
        ("tiktok", Call("main", "POST", "/v2/video/list"), "video.list", "user.info.basic"),
        ("tiktok", Call("main", "POST", POST, PULLED), "video.upload", "video.list"),
        ("instagram", Call("main", "GET", "/me/media", {"fields": "id"}), "instagram_business_basic", ""),
        (
            *("instagram", Call("main", "GET", "/1/comments", {"fields": "id,text"})),
            *("instagram_business_manage_comments", "instagram_business_basic"),
        ),
        (
            *("instagram", Call("main", "POST", "/me/media_publish")),
            *("instagram_business_content_publish", "instagram_business_manage_comments"),
        ),
        ("zoho", Call("main", "GET", "/crm/v8/Deals"), "ZohoCRM.modules.READ", "ZohoCRM.modules.leads.CREATE"),
        ("zoho", Call("main", "POST", "/crm/v8/Leads"), "ZohoCRM.modules.leads.CREATE", "ZohoCRM.modules.READ"),
        ("zoho", Call("main", "POST", "/crm/v8/Notes"), "ZohoCRM.modules.ALL", "ZohoCRM.modules.leads.CREATE"),
        ("salesforce", Call("main", "GET", "/v63.0/sobjects/Contact/003", {"fields": "Name"}), "api", "id"),
        ("linkedin", Call("main", "GET", "/rest/posts", PAGE), "r_organization_social", "w_member_social"),
        ("facebook", Call("main", "GET", "/1", {"fields": "about"}), "pages_read_engagement", "pages_show_list"),
    ],
)
def test_a_call_needs_the_scope_that_the_service_names(service: str, call: Call, least: str, other: str) -> None:
    provider = CATALOG.provider(service)
    assert allows(provider, call, frozenset({least}))
    assert not allows(provider, call, frozenset({other}))


@pytest.mark.parametrize(
    ("service", "refused", "allowed"),
    [
        # its answer is an address to which anybody can upload the video
        (
            "tiktok",
            Call("main", "POST", POST, {"source_info": {"source": "FILE_UPLOAD"}}),
            Call("main", "POST", POST, PULLED),
        ),
        # shows what needs other permissions, or a token
        (
            "instagram",
            Call("main", "GET", "/17", {"fields": "id,comments{text}"}),
            Call("main", "GET", "/17", {"fields": "id,caption"}),
        ),
        (
            "facebook",
            Call("main", "GET", "/17", {"fields": "name,access_token"}),
            Call("main", "GET", "/17", {"fields": "name,about"}),
        ),
        # posts of a person
        (
            "linkedin",
            Call("main", "GET", "/rest/posts", {**PAGE, "author": "urn:li:person:1"}),
            Call("main", "GET", "/rest/posts", PAGE),
        ),
    ],
)
def test_what_shows_more_than_its_scope_is_refused(service: str, refused: Call, allowed: Call) -> None:
    provider = CATALOG.provider(service)
    scopes = frozenset({"video.upload", "instagram_business_basic", "pages_read_engagement", "r_organization_social"})
    assert not allows(provider, refused, scopes)
    assert allows(provider, allowed, scopes)


def test_a_search_at_zoho_needs_the_scope_of_searches_too() -> None:
    zoho, call = CATALOG.provider("zoho"), Call("main", "GET", "/crm/v8/Contacts/search", {"word": "ann"})
    assert not allows(zoho, call, frozenset({"ZohoCRM.modules.READ"}))
    assert allows(zoho, call, frozenset({"ZohoCRM.modules.READ", "ZohoSearch.securesearch.READ"}))


@pytest.mark.parametrize("path", ["/access_token", "/refresh_access_token"])
def test_what_answers_with_a_token_at_instagram_is_kept_from_tools_and_the_proxy(path: str) -> None:
    rules = [rule for rule in CATALOG.provider("instagram").rules if rule.path == path]
    assert [rule.tells_secrets for rule in rules] == [True]
