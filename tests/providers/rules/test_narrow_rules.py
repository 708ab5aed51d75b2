"""What single rules and tools of shipped files refuse or state, because the provider allows more in other ways."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from providers.api.api import UpstreamAPI
from providers.api.rules import Call, Payload, allows, changes_method
from providers.definitions.catalog import load_catalog
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.tools.declarations import BUILT_IN, read_tool_file
from tests.generating.shipped_tools import shipped_tools
from tests.support.doubles.scripted_server import json_reply, scripted_server

INTUIT = "com.intuit.quickbooks"


def test_a_statement_in_snowflake_is_a_change_that_the_person_sees() -> None:
    query, tables = shipped_tools()["snowflake_query"], shipped_tools()["snowflake_tables"]
    assert (query.effect, tables.effect) == ("update", "read")
    assert "statement" in query.presentation.texts


def test_who_may_save_questions_in_metabase_is_shown_to_run_queries() -> None:
    provider = load_catalog().provider("metabase")
    run, save = Call("main", "POST", "/dataset"), Call("main", "POST", "/card")
    assert not allows(provider, run, frozenset({"read"}))
    assert not allows(provider, save, frozenset({"query"}))
    assert allows(provider, save, frozenset({"write"}))
    assert allows(provider, run, frozenset({"write"}))
    assert "any query" in provider.scopes["write"].title


@pytest.mark.parametrize(
    ("author", "is_allowed"),
    [("urn:li:person:Ab-1_x", True), ("urn:li:organization:1", False), (None, False)],
)
def test_a_post_on_linkedin_is_the_persons_own(author: str | None, *, is_allowed: bool) -> None:
    call = Call("main", "POST", "/rest/posts", {"commentary": "Hello"} | ({} if author is None else {"author": author}))
    assert allows(load_catalog().provider("linkedin"), call, frozenset({"w_member_social"})) is is_allowed


@pytest.mark.parametrize(
    ("below", "is_allowed"), [("t3_5or86n", True), ("t1_dxolpyc", True), ("t4_1a2b3c", False), (None, False)]
)
def test_a_comment_on_reddit_answers_no_private_message(below: str | None, *, is_allowed: bool) -> None:
    query = {"api_type": "json", "text": "Hello"} | ({} if below is None else {"thing_id": below})
    call = Call("main", "POST", "/api/comment", query)
    assert allows(load_catalog().provider("reddit"), call, frozenset({"submit"})) is is_allowed


@pytest.mark.parametrize(("beside", "is_allowed"), [({}, True), ({"impersonatedUserName": "bob@example.com"}, False)])
def test_a_query_of_power_bi_shows_what_the_person_may_see(beside: Mapping[str, str], *, is_allowed: bool) -> None:
    scope = "https://analysis.windows.net/powerbi/api/Dataset.Read.All"
    body = {"queries": [{"query": "EVALUATE Sales"}], **beside}
    call = Call("main", "POST", "/myorg/groups/1/datasets/2/executeQueries", body, Payload(frozenset(), body))
    wider = frozenset({scope, f"{scope.removesuffix('Read.All')}ReadWrite.All"})
    for token in (wider, frozenset({scope})):
        assert allows(load_catalog().provider("power-bi"), call, frozenset({scope}), granted=token) is is_allowed


def graphql_call(tool: str) -> Call:
    """What a Shopify tool sends."""
    (declared,) = (one for one in read_tool_file(BUILT_IN / "shopify.toml").tool if one.name == tool)
    body = dict(declared.request.body) | {"variables": {"first": 5}}
    return Call("main", "POST", "/api/2026-07/graphql.json", body, Payload(frozenset(), body))


@pytest.mark.parametrize(
    ("name", "call", "least", "other"),
    [
        ("docusign", Call("main", "GET", "/v2.1/accounts/1/envelopes"), "signature", "openid"),
        ("docusign", Call("account", "GET", "/userinfo"), "signature", "extended"),
        ("quickbooks", Call("main", "GET", "/v3/company/1/query"), f"{INTUIT}.accounting", f"{INTUIT}.payment"),
        ("quickbooks", Call("main", "POST", "/v3/company/1/customer"), f"{INTUIT}.accounting", "openid"),
        ("stripe-connect", Call("main", "GET", "/customers/cus_1"), "read_only", "read_neither"),
        ("stripe-connect", Call("main", "POST", "/refunds", {"charge": "ch_1"}), "read_write", "read_only"),
        ("stripe-apps", Call("main", "GET", "/charges"), "read", "read_neither"),
        ("stripe-apps", Call("main", "POST", "/customers", {"name": "Dana"}), "write", "read"),
        ("shopify", graphql_call("shopify_products"), "read_products", "read_orders"),
        ("shopify", graphql_call("shopify_orders"), "read_orders", "read_customers"),
        ("shopify", graphql_call("shopify_order_read"), "read_orders", "read_products"),
        ("shopify", graphql_call("shopify_customers"), "read_customers", "read_orders"),
        ("shopify", graphql_call("shopify_product_create"), "write_products", "read_products"),
        ("shopify", graphql_call("shopify_product_update"), "write_products", "read_products"),
    ],
)
def test_a_call_needs_the_scope_that_the_service_names(name: str, call: Call, least: str, other: str) -> None:
    provider = load_catalog().provider(name)
    assert allows(provider, call, frozenset({least}))
    assert not allows(provider, call, frozenset({other}))


# What the vault asks for by default, and a token that can do more than its caller.
DOCUSIGN_GRANTS = (
    (frozenset({"signature", "extended"}), frozenset({"signature", "extended"})),
    (frozenset({"signature"}), frozenset({"signature", "openid"})),
)


@pytest.mark.parametrize(
    ("body", "is_allowed"),
    [
        ({"status": "voided", "voidedReason": "Wrong price"}, True),
        ({"status": "sent"}, False),  # would send a draft of the person's
        ({"purgeState": "documents_and_metadata_queued"}, False),
        ({"status": "voided", "purgeState": "documents_queued"}, False),
        ({"status": "voided", "purgeState": "documents_and_metadata_queued"}, False),
        ({"status": "voided", "recipients": {"signers": [{"email": "eve@example.com"}]}}, False),
        ({"status": "voided", "emailSettings": {"replyEmailAddressOverride": "eve@example.com"}}, False),
        ({"status": "voided", "workflow": {"workflowStatus": "paused"}}, False),
        ({"status": "voided", "notification": {"useAccountDefaults": "true"}}, False),
        ({"status": "voided", "attachments": [{"data": "eA=="}]}, False),
        ({"status": "voided", "envelopeAttachments": [{"attachmentId": "1"}]}, False),
        ({"status": "voided", "customFields": {"textCustomFields": [{"name": "a", "value": "b"}]}}, False),
        ({"status": "voided", "emailSubject": "Other"}, False),
    ],
)
def test_an_envelope_of_docusign_is_voided_and_never_purged(body: Mapping[str, object], *, is_allowed: bool) -> None:
    call = Call("main", "PUT", "/v2.1/accounts/1/envelopes/2", body, Payload(frozenset(), body))
    provider = load_catalog().provider("docusign")
    for scopes, token in DOCUSIGN_GRANTS:
        assert allows(provider, call, scopes, granted=token) is is_allowed


@pytest.mark.parametrize(
    "more",
    [
        {"documents": [{"documentId": "1", "documentBase64": "eA=="}]},
        {"compositeTemplates": [{"serverTemplates": []}]},
        {"recipients": {"signers": [{"email": "eve@example.com"}]}},
        {"emailSettings": {"bccEmailAddresses": [{"email": "eve@example.com"}]}},
        {"eventNotification": {"url": "https://eve.example"}},
        {"eventNotifications": [{"url": "https://eve.example"}]},
        {"attachments": [{"data": "eA=="}]},
        {"envelopeAttachments": [{"attachmentId": "1"}]},
        {"purgeState": "documents_queued"},
        {"PurgeState": "documents_queued"},
    ],
)
def test_an_envelope_of_docusign_is_a_template_for_those_who_sign(more: Mapping[str, object]) -> None:
    provider = load_catalog().provider("docusign")
    plain = {"status": "sent", "templateId": "7", "templateRoles": [{"email": "a@example.com", "roleName": "signer"}]}
    for scopes, token in DOCUSIGN_GRANTS:
        for body, is_allowed in ((plain, True), ({**plain, **more}, False)):
            call = Call("main", "POST", "/v2.1/accounts/1/envelopes", body, Payload(frozenset(), body))
            assert allows(provider, call, scopes, granted=token) is is_allowed


@pytest.mark.parametrize("query", [{"advanced_update": "true"}, {"resend_envelope": "true"}, {}])
def test_the_voiding_of_an_envelope_of_docusign_has_no_options(query: Mapping[str, object]) -> None:
    provider, body = load_catalog().provider("docusign"), {"status": "voided", "voidedReason": "Wrong price"}
    call = Call("main", "PUT", "/v2.1/accounts/1/envelopes/2", {**query, **body}, Payload(frozenset(query), body))
    for scopes, token in DOCUSIGN_GRANTS:
        assert allows(provider, call, scopes, granted=token) is (not query)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("customer", {"DisplayName": "Ann", "PrimaryEmailAddr": {"Address": "ann@example.com"}}),
        ("invoice", {"CustomerRef": {"value": "7"}, "Line": [{"Amount": 5}], "DueDate": "2026-12-01"}),
    ],
)
@pytest.mark.parametrize(
    "more",
    [
        {"Id": "7", "SyncToken": "0", "sparse": True, "Active": False},  # deletes a customer
        {"Id": "7", "SyncToken": "0"},
        {"Id": "7"},
        {"Id": 7},
        {"SyncToken": "0"},
        {"sparse": True},
        {"sparse": False},
    ],
)
def test_a_record_of_quickbooks_is_created_and_never_changed_by_the_same_path(
    path: str, body: Mapping[str, object], more: Mapping[str, object]
) -> None:
    provider, scope = load_catalog().provider("quickbooks"), frozenset({"com.intuit.quickbooks.accounting"})
    for token in (provider.all_scopes, scope):
        for whole, is_allowed in ((body, True), ({**body, **more}, False)):
            call = Call("main", "POST", f"/v3/company/1/{path}", whole, Payload(frozenset(), whole))
            assert allows(provider, call, scope, granted=token) is is_allowed


@pytest.mark.parametrize("is_active", [True, False])
def test_no_customer_of_quickbooks_is_created_deleted(is_active: bool) -> None:
    provider, scope = load_catalog().provider("quickbooks"), frozenset({"com.intuit.quickbooks.accounting"})
    body = {"DisplayName": "Ann", "Active": is_active}
    call = Call("main", "POST", "/v3/company/1/customer", body, Payload(frozenset(), body))
    assert not allows(provider, call, scope)


@pytest.mark.parametrize(
    "more", [{"EmailStatus": "NeedToSend"}, {"LinkedTxn": [{"TxnId": "1", "TxnType": "Estimate"}]}]
)
def test_an_invoice_of_quickbooks_is_created_without_being_sent_or_linked(more: Mapping[str, object]) -> None:
    provider, scope = load_catalog().provider("quickbooks"), frozenset({"com.intuit.quickbooks.accounting"})
    plain = {"CustomerRef": {"value": "7"}, "Line": [{"Amount": 5}]}
    for token in (provider.all_scopes, scope):
        for body, is_allowed in ((plain, True), ({**plain, **more}, False)):
            call = Call("main", "POST", "/v3/company/1/invoice", body, Payload(frozenset(), body))
            assert allows(provider, call, scope, granted=token) is is_allowed


def test_a_record_of_quickbooks_is_created_and_never_deleted_by_the_same_path() -> None:
    provider, path = load_catalog().provider("quickbooks"), "/v3/company/1/invoice"
    body = {"CustomerRef": {"value": "7"}, "Line": [{"Amount": 5}]}
    scope = frozenset({"com.intuit.quickbooks.accounting"})
    for query, is_allowed in (({}, True), ({"operation": "delete"}, False), ({"include": "void"}, False)):
        call = Call("main", "POST", path, {**query, **body}, Payload(frozenset(query), body))
        for token in (provider.all_scopes, scope):
            assert allows(provider, call, scope, granted=token) is is_allowed
    assert changes_method(provider, "operation")
    assert not changes_method(provider, "query")


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("Great work", "Great work"),
        ("Great (work) @[Ann](urn:li:person:1)", r"Great \(work\) \@\[Ann\]\(urn:li:person:1\)"),
    ],
)
async def test_the_text_of_a_linkedin_post_means_nothing_but_itself(text: str, sent: str) -> None:
    async with (
        scripted_server(lambda _: json_reply({}, status=201)) as server,
        Outbound(AddressPolicy(allow_loopback=True)) as outbound,
    ):
        provider = load_catalog().provider("linkedin").model_copy(update={"apis": {"main": server.url}})
        spec = shipped_tools()["linkedin_post"]
        api = UpstreamAPI(provider, outbound, token="t", scopes=spec.scopes, now=1)

        async def silent(done: int, total: int | None, message: str) -> None:
            """Progress that nobody watches."""

        await spec.call(api, spec.input.model_validate({"person": "Ab-1_x", "text": text}), silent)
        assert server.arrivals[-1].json["commentary"] == sent


@pytest.mark.parametrize(
    ("path", "scope", "fields"), [("/me/accounts", "pages_show_list", "id,name"), ("/1", "pages_read_engagement", "id")]
)
def test_no_spelling_of_fields_shows_the_token_of_a_page_at_facebook(path: str, scope: str, fields: str) -> None:
    facebook, scopes = load_catalog().provider("facebook"), frozenset({scope})
    for more, is_allowed in (({}, True), ({"fields[]": "access_token"}, False), ({"fields[1]": "access_token"}, False)):
        query = {"fields": fields, **more}
        call = Call("main", "GET", path, query, Payload(frozenset(query)))
        for granted in (scopes, facebook.all_scopes):
            assert allows(facebook, call, scopes, granted=granted) is is_allowed
