"""Stripe's Python library, read as an OpenAPI document."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.generating import openapi
from tests.generating.published import stripe_library

SERVICE = """
from typing import Optional, TYPE_CHECKING
if TYPE_CHECKING:
    from stripe._charge import Charge
    from stripe._list_object import ListObject
    from stripe.params._charge_list_params import ChargeListParams
    from stripe.params._charge_create_params import ChargeCreateParams

class ChargeService(StripeService):
    def list(self, params: Optional["ChargeListParams"] = None) -> "ListObject[Charge]":
        return self._request("get", "/v1/charges", params=params)

    async def list_async(self, params: Optional["ChargeListParams"] = None) -> "ListObject[Charge]":
        return await self._request_async("get", "/v1/charges", params=params)

    def retrieve(self, charge: str) -> "Charge":
        return self._request("get", "/v1/charges/{charge}".format(charge=sanitize_id(charge)))

    def create(self, params: "ChargeCreateParams") -> "Charge":
        return self._request("post", "/v1/charges", params=params)
"""
RESOURCE = """
from typing import ClassVar, List, Optional, Union
from stripe._expandable_field import ExpandableField

class Charge(StripeObject):
    class Outcome(StripeObject):
        class Rule(StripeObject):
            {member}: str
        rule: Optional[Rule]
    OBJECT_NAME: ClassVar[str] = "charge"
    id: str
    outcomes: Optional[List[Outcome]]
    payment_intent: Optional[ExpandableField["PaymentIntent"]]
    again: Optional["Charge"]
"""
LISTING = """
class ChargeListParams(RequestOptions):
    created: NotRequired["ChargeListParamsCreated|int"]
    expand: NotRequired[List[str]]
    types: NotRequired[List[str]]
    customer: NotRequired[str]

class ChargeListParamsCreated(TypedDict):
    gt: NotRequired[int]
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "stripe"
    (folder / "params").mkdir(parents=True)
    (tmp_path / "stripe-16.1.0.dist-info").mkdir()
    for name, text in {
        "_stripe_client.py": "",
        "_charge_service.py": SERVICE,
        "_charge.py": RESOURCE.format(member="id"),
        "_list_object.py": "class ListObject(StripeObject):\n    data: List[T]\n",
        "params/_charge_list_params.py": LISTING,
        "params/_charge_create_params.py": "class ChargeCreateParams(RequestOptions):\n    amount: int\n",
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_operations_parameters_and_their_spellings_are_read(library: Path) -> None:
    listing, wider, reading, _ = openapi.rules("stripe-connect", openapi.Document(library))
    assert listing["path"] == "/charges"
    assert {"created", "created[gt]", "customer", "types", "types[]", "types[0]"} <= set(listing["query"])
    assert not any(name.startswith("expand") for name in listing["query"])
    assert reading == {"api": "main", "method": "GET", "path": "/charges/{}", "scopes": ["read_only"], "exact": True}
    assert wider | {"scopes": ["read_only"], "exact": True} == listing
    assert wider["scopes"] == ["read_write"]


OLDER = """
class InvoiceService(StripeService):
    class CreateParams(TypedDict):
        tax: NotRequired["float"]
        first: NotRequired["List[InvoiceService.CreateParamsFirst]"]
        second: NotRequired["InvoiceService.CreateParamsSecond"]

    class CreateParamsFirst(TypedDict):
        coupon: NotRequired["str"]
        transfer_data: NotRequired["str"]

    class CreateParamsSecond(TypedDict):
        coupon: NotRequired["str"]

    def create(self, params: "InvoiceService.CreateParams" = {}) -> "Invoice":
        return cast(Invoice, self._requestor.request("post", "/v1/invoices", api_mode="V1", params=params))
"""
NEWEST = """
class InvoiceService(StripeService):
    def create(self, params: Optional["InvoiceCreateParams"] = None) -> "Invoice":
        return self._request("post", "/v1/invoices", params=params)
"""
MAKING = """
class InvoiceCreateParams(TypedDict):
    first: NotRequired["List[InvoiceCreateParamsFirst]"]
    second: NotRequired["InvoiceCreateParamsSecond"]

class InvoiceCreateParamsFirst(TypedDict):
    quantity: NotRequired[int]

class InvoiceCreateParamsSecond(TypedDict):
    quantity: NotRequired[int]
"""


def test_parameters_of_older_libraries_are_added_but_no_member_that_pays_others(tmp_path: Path) -> None:
    newest, older = tmp_path / "newest" / "stripe", tmp_path / "older" / "stripe"
    (newest / "params").mkdir(parents=True)
    older.mkdir(parents=True)
    for folder in (newest, older):
        (folder / "_stripe_client.py").write_text("", encoding="utf-8")
    (newest / "_invoice_service.py").write_text(
        "from stripe.params._invoice_create_params import InvoiceCreateParams\n" + NEWEST, encoding="utf-8"
    )
    (newest / "params" / "_invoice_create_params.py").write_text(MAKING, encoding="utf-8")
    (older / "_invoice_service.py").write_text(OLDER, encoding="utf-8")
    documents = openapi.Document(newest), openapi.Document(older)
    (alone,) = openapi.rules("stripe-connect", documents[0])
    assert alone["body"] == ["first", "second"]
    (merged,) = openapi.rules("stripe-connect", documents[0], documents[1:])
    assert merged["body"] == ["first/coupon", "first/quantity", "second", "tax"]
    (only,) = openapi.rules("stripe-connect", documents[1])
    assert only["body"] == ["first/coupon", "second", "tax"]


@pytest.mark.parametrize(("member", "is_secret"), [("client_secret", True), ("client_name", False)])
def test_what_an_answer_contains_is_found_but_not_what_it_only_names(
    library: Path, member: str, is_secret: bool
) -> None:
    (library / "_charge.py").write_text(RESOURCE.format(member=member), encoding="utf-8")
    (library / "_payment_intent.py").write_text(
        "class PaymentIntent(StripeObject):\n    secret: str\n", encoding="utf-8"
    )
    document = openapi.Document(library)
    for _, _, operation, _, where in document.operations():
        assert bool(openapi.secrets_told(document, operation, where)) == is_secret


def test_the_library_tells_its_version_and_another_folder_is_none(library: Path, tmp_path: Path) -> None:
    assert stripe_library.is_library(library)
    assert stripe_library.version_of(library) == "16.1.0"
    assert not stripe_library.is_library(tmp_path)
