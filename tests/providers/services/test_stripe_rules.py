"""What Stripe's request rules show to who only reads, and what the titles of its scopes say."""

from __future__ import annotations

import pytest

from providers.api.rules import Call, Payload, allows, of_path
from providers.definitions.catalog import load_catalog

CATALOG = load_catalog()
READ, WRITE = frozenset({"read"}), frozenset({"write"})


@pytest.mark.parametrize(
    ("closed", "open_"),
    [
        ("/file_links", "/topups"),
        ("/file_links/link_1", "/topups/tu_1"),
        ("/files", "/transfers"),
        ("/files/file_1", "/transfers/tr_1"),
        ("/link_account_sessions", "/financial_connections/accounts"),
        ("/link_account_sessions/fcsess_1", "/financial_connections/accounts/fca_1"),
    ],
)
def test_a_link_or_client_secret_of_stripe_is_for_who_may_write(closed: str, open_: str) -> None:
    stripe = CATALOG.provider("stripe")
    for token in (READ, stripe.all_scopes):
        assert not allows(stripe, Call("main", "GET", closed), READ, granted=token)
        assert allows(stripe, Call("main", "GET", open_), READ, granted=token)
    assert allows(stripe, Call("main", "GET", closed), WRITE, granted=stripe.all_scopes)


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        ("/reviews/prv_1", "payment_intent"),
        ("/transfers", "data.source_transaction.payment_intent"),
        ("/application_fees", "data.charge.payment_intent"),
        ("/radar/early_fraud_warnings", "data.payment_intent"),
        ("/charges/ch_1/refunds", "data.payment_intent"),
        ("/customers/cus_1/subscriptions", "data.latest_invoice.payment_intent"),
    ],
)
@pytest.mark.parametrize("name", ["expand", "expand[]", "expand[0]", "expand[x]"])
def test_no_path_of_stripe_shows_a_client_secret_to_who_only_reads(path: str, expanded: str, name: str) -> None:
    stripe = CATALOG.provider("stripe")
    for query, is_allowed in (({"limit": "3", "created[gte]": "1"}, True), ({name: expanded}, False)):
        call = Call("main", "GET", path, query, Payload(frozenset(query)))
        for token in (READ, stripe.all_scopes):
            assert allows(stripe, call, READ, granted=token) == is_allowed
        assert allows(stripe, call, WRITE, granted=stripe.all_scopes)


@pytest.mark.parametrize(
    "path", ["/issuing/cards/ic_1/details", "/issuing/cards/ic_1/Details", "/issuing/cards/ic_1/pin"]
)
def test_nobody_is_shown_the_number_of_a_card(path: str) -> None:
    stripe = CATALOG.provider("stripe")
    assert {rule.tells_secrets for rule in of_path(stripe, api="main", method="GET", path=path)} <= {True}
    assert not allows(stripe, Call("main", "GET", path), READ)
    (open_,) = {rule.tells_secrets for rule in of_path(stripe, api="main", method="GET", path="/issuing/cards")}
    assert not open_


@pytest.mark.parametrize(
    ("name", "scope", "path", "body", "said"),
    [
        ("stripe", "write", "/payouts", {"amount": "5"}, "pay out"),
        ("stripe", "write", "/refunds", {"charge": "ch_1"}, "refund"),
        ("stripe-connect", "read_write", "/payment_intents", {"amount": "5"}, "take payments"),
    ],
)
def test_the_titles_of_stripe_s_scopes_say_where_money_goes(
    name: str, scope: str, path: str, body: dict[str, str], said: str
) -> None:
    provider, call = CATALOG.provider(name), Call("main", "POST", path, body, Payload(body=body))
    assert allows(provider, call, frozenset({scope}))
    assert not allows(provider, call, frozenset({"read", "read_only"}))
    assert said in provider.scopes[scope].title


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/payment_intents", {"payment_method_types": ["card"]}),
        ("/payment_intents/pi_1/confirm", {"payment_method_types": ["card"]}),
        ("/checkout/sessions", {"payment_method_types": ["card"]}),
        ("/subscriptions", {"coupon": "c"}),
        ("/subscriptions/sub_1", {"promotion_code": "p"}),
        ("/customers", {"coupon": "c"}),
        ("/subscription_schedules", {"phases": [{"coupon": "c", "iterations": "3"}]}),
        # of 2019
        ("/subscriptions", {"items": [{"plan": "p"}], "tax_percent": "19", "billing": "send_invoice", "prorate": "f"}),
        ("/subscription_items/si_1", {"plan": "p", "prorate": "false"}),
        ("/invoices", {"billing": "send_invoice", "tax_percent": "19"}),
        ("/customers/cus_1", {"account_balance": "-5", "tax_info": {"type": "vat", "tax_id": "DE1"}}),
        ("/subscription_schedules", {"phases": [{"plans": [{"plan": "p"}], "tax_percent": "19"}]}),
        # of 2017
        ("/subscriptions", {"plan": "p", "quantity": "2", "source": "tok_1"}),
        ("/subscriptions/sub_1", {"plan": "p", "quantity": "2", "source": "tok_1", "prorate": "false"}),
    ],
)
def test_accounts_with_an_older_version_of_the_api_can_send_its_parameters(path: str, body: dict[str, object]) -> None:
    stripe = CATALOG.provider("stripe-connect")
    for added, is_allowed in (({}, True), ({"on_behalf_of": "acct_2"}, False), ({"unknown": "x"}, False)):
        call = Call("main", "POST", path, {}, Payload(body={**body, **added}))
        assert allows(stripe, call, frozenset({"read_write"})) is is_allowed


@pytest.mark.parametrize("inside", ["application_fee_percent", "on_behalf_of", "transfer_data"])
def test_older_parameters_pay_no_one_else(inside: str) -> None:
    stripe = CATALOG.provider("stripe-connect")
    for name, is_allowed in (("tax_percent", True), (inside, False)):
        for body in ({"plan": "p", name: "1"}, {"phases": [{"plans": [{"plan": "p"}], name: "1"}]}):
            path = "/subscription_schedules" if "phases" in body else "/subscriptions"
            call = Call("main", "POST", path, {}, Payload(body=body))
            assert allows(stripe, call, frozenset({"read_write"})) is is_allowed


def test_an_app_can_send_older_parameters_of_a_customer() -> None:
    stripe = CATALOG.provider("stripe-apps")
    for name, is_allowed in (("coupon", True), ("account_balance", True), ("expand", False)):
        call = Call("main", "POST", "/customers", {}, Payload(body={name: "c"}))
        assert allows(stripe, call, WRITE) is is_allowed
