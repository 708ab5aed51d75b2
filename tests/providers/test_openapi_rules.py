"""Rules made from the OpenAPI documents that services publish: what the generator reads, and the result."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from providers.api.rules import Call, Payload, allows, fits, of_path
from providers.definitions.catalog import load_catalog
from tests.generating import openapi

CATALOG = load_catalog()
POWER_BI = "https://analysis.windows.net/powerbi/api/"
_READ_BY_POST = ("/git-upload-pack", "/executeQueries")
NAMES = tuple(name for name, one in openapi.SERVICES.items() if one.has_rules)


@pytest.mark.parametrize("name", NAMES)
def test_the_rules_say_where_they_come_from_and_no_reading_scope_writes(name: str) -> None:
    service = openapi.SERVICES[name]
    made = json.loads(service.file_of("json").read_text(encoding="utf-8"))
    assert made["source"]["document"].startswith(service.repository)
    provider = CATALOG.provider(name)
    own = tomllib.loads(service.file_of("toml").read_text(encoding="utf-8")).get("rules", [])
    assert len(provider.rules) - len(own) == len(made["rules"]) >= 4
    reads = ("GET", "POST") if service.posts_reads else ("GET",)
    for rule in provider.rules:
        only_reads = service.is_search(rule.path) or rule.path.endswith(_READ_BY_POST)
        if rule.method not in {reads, ("GET",)} and not only_reads:
            needed = rule.scopes if service.paths else rule.scopes | rule.needs
            assert not needed & provider.reading_scopes, rule
    if service.known_scopes is not None:
        return  # the file has its scopes, and others may be connected as well
    unused = provider.scopes.keys() - {scope for rule in provider.rules for scope in (*rule.scopes, *rule.needs)}
    assert all(provider.scopes[scope].covers for scope in unused)  # only scopes that include others


@pytest.mark.parametrize(
    ("name", "call", "least", "other"),
    [
        ("asana", Call("main", "GET", "/tasks/12"), "tasks:read", "projects:read"),
        ("asana", Call("main", "POST", "/tasks"), "tasks:write", "tasks:read"),
        ("asana", Call("main", "DELETE", "/tasks/12"), "tasks:delete", "tasks:write"),
        ("digitalocean", Call("main", "GET", "/droplets"), "droplet:read", "image:read"),
        ("digitalocean", Call("main", "POST", "/droplets/12/actions"), "droplet:update", "droplet:read"),
        ("digitalocean", Call("main", "GET", "/volumes"), "block_storage:read", "droplet:read"),
        ("figma", Call("main", "GET", "/v1/files/abc/comments"), "file_comments:read", "file_content:read"),
        ("figma", Call("main", "POST", "/v1/files/abc/comments"), "file_comments:write", "file_comments:read"),
        (
            "power-bi",
            Call("main", "GET", "/myorg/groups/1/reports"),
            f"{POWER_BI}Report.Read.All",
            f"{POWER_BI}Dataset.Read.All",
        ),
        (
            "power-bi",
            Call("main", "POST", "/myorg/groups/1/datasets/2/refreshes"),
            f"{POWER_BI}Dataset.ReadWrite.All",
            f"{POWER_BI}Dataset.Read.All",
        ),
        ("pagerduty", Call("main", "GET", "/incidents"), "incidents.read", "services.read"),
        ("pagerduty", Call("main", "POST", "/incidents/P1/notes"), "incidents.write", "incidents.read"),
        (
            "discord",
            Call("main", "PUT", "/users/@me/applications/1/role-connection"),
            "role_connections.write",
            "guilds",
        ),
    ],
)
def test_a_call_needs_the_scope_that_the_document_names(name: str, call: Call, least: str, other: str) -> None:
    provider = CATALOG.provider(name)
    assert allows(provider, call, frozenset({least}))
    assert not allows(provider, call, frozenset({other}))


@pytest.mark.parametrize(
    ("name", "path", "near"),
    [
        ("asana", "/batch", "/users/me"),
        ("digitalocean", "/databases/abc", "/droplets/12"),
        ("digitalocean", "/kubernetes/clusters/abc/kubeconfig", "/vpcs/abc"),
        ("figma", "/v2/webhooks/12", "/v1/files/abc"),
        ("pagerduty", "/services/P1/integrations/P2", "/services/P1"),
        ("pagerduty", "/schedules/P1", "/oncalls"),
    ],
)
def test_what_answers_with_credentials_has_no_rule(name: str, path: str, near: str) -> None:
    provider = CATALOG.provider(name)
    for method in ("GET", "POST"):
        assert not allows(provider, Call("main", method, path), provider.all_scopes)
    assert allows(provider, Call("main", "GET", near), provider.all_scopes)


@pytest.mark.parametrize(
    ("name", "path", "widening"), [("asana", "/tasks", "opt_fields"), ("pagerduty", "/incidents", "include[]")]
)
def test_related_objects_are_not_shown_where_the_account_can_do_more(name: str, path: str, widening: str) -> None:
    provider = CATALOG.provider(name)
    scope = frozenset({"tasks:read" if name == "asana" else "incidents.read"})
    for parameter, is_allowed in ((widening, False), ("limit", True)):
        call = Call("main", "GET", path, {parameter: "x"}, Payload(frozenset({parameter})))
        assert allows(provider, call, scope, granted=provider.all_scopes) == is_allowed
        assert allows(provider, call, scope, granted=scope)


@pytest.mark.parametrize(
    ("name", "path", "least", "wider"),
    [
        ("strava", "/athlete/activities", "activity:read", "activity:read_all"),
        ("strava", "/activities/12", "activity:read", "activity:read_all"),
        ("strava", "/activities/12/laps", "activity:read", "activity:read_all"),
        ("strava", "/activities/12/comments", "activity:read", "activity:read_all"),
        ("strava", "/activities/12/kudos", "activity:read", "activity:read_all"),
        ("strava", "/athletes/12/stats", "activity:read", "activity:read_all"),
        ("strava", "/athlete", "read", "profile:read_all"),
        ("twitch", "/users", "user:read:follows", "user:read:email"),
        ("discord", "/users/@me", "identify", "email"),
        ("discord", "/oauth2/@me", "identify", "email"),
        ("spotify", "/playlists/12", "user-library-read", "playlist-read-private"),
        ("digitalocean", "/projects/12/resources", "project:read", "droplet:read"),
        ("digitalocean", "/projects/default/resources", "project:read", "domain:read"),
        ("digitalocean", "/tags", "tag:read", "read"),
        ("digitalocean", "/vpcs/12/members", "vpc:read", "load_balancer:read"),
    ],
)
def test_a_scope_of_the_account_that_widens_the_answer_must_be_the_agents_too(
    name: str, path: str, least: str, wider: str
) -> None:
    provider, call = CATALOG.provider(name), Call("main", "GET", path)
    narrow, wide = frozenset({least}), frozenset({least, wider})
    assert not allows(provider, call, narrow, granted=wide)
    assert allows(provider, call, narrow, granted=narrow)
    assert allows(provider, call, wide, granted=wide)


OPEN_TO_ALL = {  # the same answer for every token, whatever the account allowed; reviewed by hand
    "spotify": {
        *("/albums", "/albums/{}", "/albums/{}/tracks", "/artists", "/artists/{}", "/artists/{}/albums", "/search"),
        *("/artists/{}/top-tracks", "/artists/{}/related-artists", "/shows", "/tracks", "/tracks/{}"),
    },
    "twitch": {"/channels", "/clips", "/games", "/search/categories", "/search/channels", "/streams", "/videos"},
}


@pytest.mark.parametrize("name", [name for name, one in openapi.SERVICES.items() if one.unscoped])
def test_a_call_without_a_scope_of_its_own_shows_the_same_to_all_or_says_what_shows_more(name: str) -> None:
    any_of = frozenset(openapi.SERVICES[name].unscoped.split())
    unscoped = [rule for rule in CATALOG.provider(name).rules if rule.scopes == any_of]
    assert {rule.path for rule in unscoped if not rule.inseparable} == OPEN_TO_ALL[name]


def test_a_meeting_of_somebody_else_tells_who_may_start_it_and_ones_own_does_not() -> None:
    zoom = CATALOG.provider("zoom")
    for path, parameters, is_told in (
        ("/users/me/meetings", {}, True),
        ("/users/me/meetings", {"schedule_for": "boss@example.com"}, False),
        ("/users/boss@example.com/meetings", {}, False),
        ("/users/me/webinars", {}, False),
    ):
        call = Call("main", "POST", path, parameters)
        found = [rule for rule in of_path(zoom, api="main", method="POST", path=path) if fits(rule, parameters)]
        assert any(not rule.tells_secrets for rule in found) == is_told, call
    for path, is_told in (("/users/me/recordings", True), ("/users/12/recordings", False)):
        (rule,) = of_path(zoom, api="main", method="GET", path=path)
        assert rule.tells_secrets != is_told
    (rule,) = of_path(zoom, api="main", method="GET", path="/meetings/12/recordings")
    assert rule.tells_secrets


@pytest.mark.parametrize(
    ("kinds", "is_allowed"),
    [("cards", True), ("cards,boards", True), ("organizations,members", False), ("all", False), (None, False)],
)
def test_the_search_of_trello_looks_at_boards_and_cards_only(kinds: str | None, is_allowed: bool) -> None:
    parameters = {"query": "x"} if kinds is None else {"query": "x", "modelTypes": kinds}
    trello, scope = CATALOG.provider("trello"), frozenset({"read:board:trello"})
    call = Call("main", "GET", "/search", parameters, Payload(frozenset(parameters)))
    assert allows(trello, call, scope, granted=trello.all_scopes) == is_allowed


def test_one_kind_of_playlist_is_not_changed_with_a_token_for_both() -> None:
    spotify, call = CATALOG.provider("spotify"), Call("main", "PUT", "/playlists/12")
    private, both = frozenset({"playlist-modify-private"}), {"playlist-modify-private", "playlist-modify-public"}
    assert not allows(spotify, call, private, granted=frozenset(both))
    assert allows(spotify, call, private, granted=private)
    assert allows(spotify, call, frozenset(both), granted=frozenset(both))


@pytest.mark.parametrize(
    ("method", "closed", "open_"),
    [
        ("GET", "/Accounts/AC1.json", "/Accounts/AC1/Messages.json"),
        ("GET", "/Accounts/AC1", "/Accounts/AC1/Calls"),  # the same account as XML
        ("GET", "/Accounts/AC1.xml", "/Accounts/AC1/Balance.json"),
        ("PUT", "/Accounts/AC1.json", "/Accounts/AC1/Messages/SM1.json"),
        ("GET", "/Accounts", "/Accounts/AC1/IncomingPhoneNumbers.json"),
        ("GET", "/Accounts.csv", "/Accounts/AC1/Recordings.json"),
        ("POST", "/Accounts/AC1/Keys", "/Accounts/AC1/Messages"),
        ("POST", "/Accounts/AC1/Tokens.xml", "/Accounts/AC1/Calls.json"),
        ("POST", "/Accounts/AC1/OutgoingCallerIds.json", "/Accounts/AC1/OutgoingCallerIds/PN1.json"),
        ("POST", "/Accounts/AC1/OutgoingCallerIds.csv", "/Accounts/AC1/OutgoingCallerIds/PN1.csv"),
        ("PUT", "/Accounts/AC1/OutgoingCallerIds.html", "/Accounts/AC1/OutgoingCallerIds/PN1.html"),
    ],
)
def test_twilio_s_credentials_and_codes_are_closed_in_every_format(method: str, closed: str, open_: str) -> None:
    twilio = CATALOG.provider("twilio")
    assert {rule.tells_secrets for rule in of_path(twilio, api="main", method=method, path=closed)} <= {True}
    assert {rule.tells_secrets for rule in of_path(twilio, api="main", method=method, path=open_)} == {False}


@pytest.mark.parametrize(
    ("method", "path", "least", "named"),
    [
        ("GET", "/Accounts/AC1/Recordings.json", "read", "recordings"),
        ("GET", "/Accounts/AC1/Addresses.json", "read", "everything else"),
        ("POST", "/Accounts/AC1/IncomingPhoneNumbers.json", "write", "buy numbers"),
    ],
)
def test_the_titles_of_twilio_s_scopes_name_what_they_allow(method: str, path: str, least: str, named: str) -> None:
    twilio, call = CATALOG.provider("twilio"), Call("main", method, path)
    assert allows(twilio, call, frozenset({least}), granted=twilio.all_scopes)
    assert allows(twilio, call, frozenset({"read"}), granted=twilio.all_scopes) == (least == "read")
    assert named in twilio.scopes[least].title


@pytest.mark.parametrize(
    ("query", "is_allowed"),
    [({"CountryCode": "DE"}, True), ({"Fields": "caller_name"}, False), ({"Fields[]": "caller_name"}, False)],
)
def test_a_number_is_looked_up_at_twilio_without_paid_packages(query: dict[str, str], is_allowed: bool) -> None:
    twilio, scopes = CATALOG.provider("twilio"), frozenset({"read"})
    call = Call("lookups", "GET", "/v2/PhoneNumbers/%2B4930", query, Payload(frozenset(query)))
    for granted in (scopes, twilio.all_scopes):
        assert allows(twilio, call, scopes, granted=granted) == is_allowed
    assert not allows(twilio, Call("lookups", "POST", "/v2/batch/query"), twilio.all_scopes)


@pytest.mark.parametrize(
    ("call", "least", "other"),
    [
        ("GET /2.0/files/1/versions", "root_readonly", "base_preview"),
        ("GET /2.0/folders/trash/items", "root_readonly", "base_explorer"),
        ("GET /2.0/files/1/comments", "root_readwrite", "root_readonly"),
        ("GET /2.0/tasks/1/assignments", "root_readwrite", "root_readonly"),
        ("GET /2.0/folders/1/collaborations", "root_readwrite", "root_readonly"),
        ("POST /2.0/comments", "root_readwrite", "root_readonly"),
        ("PUT /2.0/folders/1", "root_readwrite", "item_rename"),
        ("DELETE /2.0/files/1/trash", "root_readwrite", "item_delete"),
        ("PUT /2.0/files/1/metadata/global/properties", "root_readwrite", "root_readonly"),
    ],
)
def test_an_item_of_box_is_read_or_shared_with_the_scope_that_box_names(call: str, least: str, other: str) -> None:
    box, (method, path) = CATALOG.provider("box"), call.split()
    assert allows(box, Call("content", method, path), frozenset({least}))
    assert not allows(box, Call("content", method, path), frozenset({other}))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("PUT", "/2.0/files/1"), ("POST", "/2.0/folders"), ("PUT", "/2.0/folders/1"), ("POST", "/2.0/files/1/copy")),
        *(("GET", "/2.0/folders/trash/items"), ("GET", "/2.0/collections/1/items"), ("GET", "/2.0/web_links/1")),
    ],
)
@pytest.mark.parametrize(
    ("fields", "is_allowed"), [("id,name", True), ("expiring_embed_link", False), ("id,shared_link", False)]
)
def test_no_field_of_box_shows_a_link_with_a_token(method: str, path: str, fields: str, is_allowed: bool) -> None:
    box = CATALOG.provider("box")
    call = Call("content", method, path, {"fields": fields}, Payload(frozenset({"fields"})))
    assert allows(box, call, box.all_scopes) == is_allowed


@pytest.mark.parametrize(
    ("role", "is_allowed"),
    [
        *(("viewer", True), ("previewer uploader", True), ("co-owner", True)),
        *((one, False) for one in ("owner", " owner", "owner ", "viewer owner", "Owner", "  ")),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/2.0/collaborations"), ("PUT", "/2.0/collaborations/1")])
def test_an_item_of_box_is_shared_but_not_given_away(method: str, path: str, role: str, is_allowed: bool) -> None:
    box, body = CATALOG.provider("box"), {"role": role}
    assert allows(box, Call("content", method, path, body, Payload(body=body)), box.all_scopes) == is_allowed


@pytest.mark.parametrize(
    ("closed", "open_"),
    [
        ("/2.0/webhooks", "/2.0/comments"),
        ("/2.0/zip_downloads", "/2.0/web_links"),
        ("/2.0/files/1/watermark", "/2.0/files/1/copy"),
        ("/2.0/shared_items", "/2.0/tasks"),
        ("/2.0/sign_requests", "/2.0/task_assignments"),
    ],
)
def test_box_has_no_rule_for_links_of_others_webhooks_and_signatures(closed: str, open_: str) -> None:
    box = CATALOG.provider("box")
    for method in ("GET", "POST", "PUT"):
        assert not of_path(box, api="content", method=method, path=closed)
    assert of_path(box, api="content", method="POST", path=open_)


@pytest.mark.parametrize(
    ("closed", "open_"),
    [
        *(
            (
                f"{method} /2.0/{item}/1/metadata/{scope}/securityClassification-6VMVochwUWo",
                f"{method} /2.0/{item}/1/metadata/{scope}/contract",
            )
            for method in ("POST", "PUT", "DELETE")
            for item in ("files", "folders")
            for scope in ("enterprise", "enterprise_27335")
        ),
        (
            "PUT /2.0/files/1/metadata/enterprise/SecurityClassification-6VMVochwUWo",
            "GET /2.0/files/1/metadata/enterprise/securityClassification-6VMVochwUWo",
        ),
        ("POST /2.0/files/upload_sessions", "POST /2.0/files/1"),
        ("POST /2.0/files/Upload_sessions", "POST /2.0/folders/1"),
    ],
)
def test_no_classification_of_box_is_changed_and_no_upload_is_taken_for_a_file(closed: str, open_: str) -> None:
    box, scopes = CATALOG.provider("box"), frozenset({"root_readwrite"})
    for text, is_allowed in ((closed, False), (open_, True)):
        method, path = text.split()
        assert allows(box, Call("content", method, path), scopes) == is_allowed
        assert allows(box, Call("content", method, path), scopes, granted=box.all_scopes) == is_allowed


STRIPES = {"stripe-connect": ("read_only", "read_write"), "stripe-apps": ("read", "write"), "stripe": ("read", "write")}


def stripe_call(text: str, **query: object) -> Call:
    method, path = text.split()
    return Call("main", method, path, query, Payload(frozenset(query)))


@pytest.mark.parametrize("name", STRIPES)
@pytest.mark.parametrize(
    "text", ["GET /payment_intents", "GET /setup_intents/seti_1", "GET /checkout/sessions", "GET /events/evt_1"]
)
def test_an_answer_of_stripe_with_a_client_secret_is_for_who_may_take_payments(name: str, text: str) -> None:
    stripe, (read, write) = CATALOG.provider(name), STRIPES[name]
    assert allows(stripe, stripe_call("GET /charges"), frozenset({read}))
    assert not allows(stripe, stripe_call(text), frozenset({read}))
    assert allows(stripe, stripe_call(text), frozenset({write})) == (name != "stripe-apps")  # its write is narrower


@pytest.mark.parametrize("name", STRIPES)
@pytest.mark.parametrize(
    ("parameter", "is_allowed"),
    [("customer", True), ("created[gte]", True), ("expand[]", False), ("expand[0]", False), ("expand", False)],
)
def test_who_only_reads_at_stripe_expands_no_other_objects(name: str, parameter: str, is_allowed: bool) -> None:
    stripe, (read, write) = CATALOG.provider(name), STRIPES[name]
    call = stripe_call("GET /charges", **{parameter: "x"})
    for granted in (stripe.all_scopes, frozenset({read}), None):
        assert allows(stripe, call, frozenset({read}), granted=granted) == is_allowed
    may_pay = name != "stripe-apps"
    assert allows(stripe, call, frozenset({write}), granted=stripe.all_scopes) == (is_allowed or may_pay)


@pytest.mark.parametrize("path", ["/application_fees", "/reviews/prv_1", "/something/new"])
@pytest.mark.parametrize(
    ("parameter", "is_allowed"), [("limit", True), ("created[gte]", True), ("expand[]", False), ("expand[7]", False)]
)
def test_a_key_of_stripe_that_reads_expands_nothing_on_any_path(path: str, parameter: str, is_allowed: bool) -> None:
    stripe = CATALOG.provider("stripe")
    call = stripe_call(f"GET {path}", **{parameter: "data.charge.payment_intent"})
    assert allows(stripe, call, frozenset({"read"})) == is_allowed
    assert allows(stripe, call, frozenset({"write"}))


@pytest.mark.parametrize("name", ["include[]", "include", "include[0]"])
def test_a_service_of_pagerduty_shows_no_keys_of_its_integrations(name: str) -> None:
    pagerduty, scopes = CATALOG.provider("pagerduty"), frozenset({"services.read"})
    for path in ("/services", "/services/P1"):
        plain = Call("main", "GET", path)
        whole = Call("main", "GET", path, {name: "integrations"}, Payload(frozenset({name})))
        for granted in (scopes, pagerduty.all_scopes):
            assert allows(pagerduty, plain, scopes, granted=granted)
            assert not allows(pagerduty, whole, scopes, granted=granted)


@pytest.mark.parametrize(
    ("closed", "open_"),
    [
        ("POST /payouts", "GET /payouts"),
        ("POST /transfers", "POST /refunds"),
        ("POST /charges", "POST /charges/ch_1/capture"),
        ("POST /webhook_endpoints", "POST /payment_links"),
        ("GET /account", "GET /balance"),
        ("POST /ephemeral_keys", "POST /invoices/in_1/finalize"),
        ("GET /customers/cus_1/sources", "GET /customers/cus_1/payment_methods"),
        ("GET /issuing/cards/ic_1", "GET /disputes/dp_1"),
    ],
)
def test_no_money_leaves_an_account_that_is_connected_to_stripe_and_no_key_is_made(closed: str, open_: str) -> None:
    stripe = CATALOG.provider("stripe-connect")
    assert not allows(stripe, stripe_call(closed), stripe.all_scopes)
    assert allows(stripe, stripe_call(open_), stripe.all_scopes)


def test_a_stripe_app_writes_what_its_scope_says() -> None:
    writes = {rule.path for rule in CATALOG.provider("stripe-apps").rules if rule.method != ("GET",)}
    assert writes == {"/customers", "/refunds"}


@pytest.mark.parametrize(
    ("closed", "open_"),
    [
        ("POST /ephemeral_keys", "POST /payment_links"),
        ("POST /webhook_endpoints", "POST /webhook_endpoints/we_1"),
        ("GET /issuing/cards/ic_1", "GET /issuing/cards"),
        ("GET /terminal/configurations/tmc_1", "GET /terminal/locations/tml_1"),
        ("POST /terminal/connection_tokens", "POST /terminal/readers/tmr_1/process_payment_intent"),
        ("POST /billing_portal/sessions", "POST /checkout/sessions"),
        ("GET /apps/secrets/find", "GET /webhook_endpoints"),
    ],
)
def test_a_key_of_stripe_shows_no_further_credentials(closed: str, open_: str) -> None:
    stripe = CATALOG.provider("stripe")
    for text, is_closed in ((closed, True), (open_, False)):
        method, path = text.split()
        assert {rule.tells_secrets for rule in of_path(stripe, api="main", method=method, path=path)} == {is_closed}


PAGING = {"name": "page", "in": "query"}
MAIN = {
    "paths": {
        "/v2/droplets/{id}": {"$ref": "droplets.yml#/one"},
        "/v2/tasks": {
            "parameters": [PAGING, {"name": "opt_fields", "in": "query"}, {"name": "id", "in": "path"}],
            "post": {
                "tags": ["Tasks"],
                "description": "<b>Required scope: </b><code>tasks:write</code> <code>tags:write</code>",
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Task"}}}},
            },
            "get": {"tags": ["Tasks"], "description": "Needs nothing."},
        },
    },
    "components": {"schemas": {"Task": {"allOf": [{"properties": {"data": {}}}, {"$ref": "droplets.yml#/more"}]}}},
}
DROPLETS = {
    "one": {
        "get": {"tags": ["Droplets"], "security": [{"bearer_auth": ["droplet:read", "api:read", "regions:read"]}]},
        "delete": {"tags": ["Databases"], "security": [{"bearer_auth": ["database:delete"]}]},
    },
    "more": {"properties": {"options": {}}},
}


@pytest.fixture
def document(tmp_path: Path) -> openapi.Document:
    (tmp_path / "main.yaml").write_text(yaml.safe_dump(MAIN), encoding="utf-8")
    (tmp_path / "droplets.yml").write_text(yaml.safe_dump(DROPLETS), encoding="utf-8")
    return openapi.Document(tmp_path / "main.yaml")


def test_scopes_are_read_from_descriptions_and_members_through_references(document: openapi.Document) -> None:
    assert list(openapi.rules("asana", document)) == [
        {
            "api": "main",
            "method": "POST",
            "path": "/v2/tasks",
            "scopes": ["tasks:write"],
            "needs": ["tags:write"],
            "query": ["page"],
            "body": ["data", "options"],
        }
    ]


def test_scopes_are_read_from_security_and_parts_that_nobody_looked_through_are_left_out(
    document: openapi.Document,
) -> None:
    assert list(openapi.rules("digitalocean", document)) == [
        {"api": "main", "method": "GET", "path": "/droplets/{}", "scopes": ["droplet:read"], "needs": ["regions:read"]}
    ]


@pytest.mark.parametrize(("member", "is_secret"), [("name", False), ("client_secret", True)])
def test_an_answer_whose_schema_contains_itself_is_searched_for_credentials(
    tmp_path: Path, member: str, *, is_secret: bool
) -> None:
    lists = {"type": "array", "items": {"$ref": "#/components/schemas/Lists"}}
    thing = {"properties": {member: {}, "parent": {"$ref": "#/components/schemas/Thing"}, "lists": lists}}
    content = {"application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}}}}
    operation = {"responses": {"200": {"content": content}}}
    text = yaml.safe_dump({"paths": {}, "components": {"schemas": {"Lists": lists, "Thing": thing}}})
    (tmp_path / "main.yaml").write_text(text, encoding="utf-8")
    document = openapi.Document(tmp_path / "main.yaml")
    assert bool(openapi.secrets_told(document, operation, document.path)) == is_secret
