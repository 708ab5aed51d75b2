"""Names like `a[b]` of a form or query are paths where the provider reads them so; no spelling hides a member."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.api.rules import Call, Payload, allows
from providers.definitions.catalog import load_catalog
from providers.definitions.model import Provider
from providers.outbound.json_values import is_array, is_object
from server.proxy.wire import CallParameters, ProxyRefused, merge, query_names, read_body, read_query

CATALOG = load_catalog()
STRIPE, SLACK = CATALOG.provider("stripe-connect"), CATALOG.provider("slack")
FORM = "application/x-www-form-urlencoded"
WRITE = frozenset({"read_write"})


def form(text: str, provider: Provider = STRIPE) -> CallParameters:
    found = read_body(FORM, text.encode(), provider, is_judged=False)
    assert found is not None
    return found


def passes(path: str, text: str, *, query: str = "", scopes: frozenset[str] = WRITE) -> bool:
    """Whether Stripe's rules allow this form, as the proxy reads it."""
    found, asked = form(text), read_query(query.encode(), STRIPE)
    call = Call("main", "POST", path, {**asked.values, **found.values}, Payload(query_names(asked), found.values))
    return allows(STRIPE, call, scopes)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a=1", {"a": "1"}),
        ("a[b]=1", {"a": {"b": "1"}}),
        ("a%5Bb%5D=1", {"a": {"b": "1"}}),
        ("a[b][c]=1&a[b][d]=2&a[e]=3", {"a": {"b": {"c": "1", "d": "2"}, "e": "3"}}),
        ("a[]=1&a[]=2", {"a": ["1", "2"]}),
        ("a[0][b]=1&a[1][b]=2", {"a": [{"b": "1"}, {"b": "2"}]}),
        ("a[][b]=1", {"a": [{"b": "1"}]}),
        ("a.b=1", {"a.b": "1"}),
        ("a%255Bb%255D=1", {"a%5Bb%5D": "1"}),  # encoded twice: no bracket
        ("a=1&a[b]=2", {"a": ["1", {"b": "2"}]}),
        ("a[b]=1&a=2", {"a": [{"b": "1"}, "2"]}),
        ("a[b]=1&a[]=2", {"a": [{"b": "1"}, ["2"]]}),
        ("a[b]=1&a[b]=2", {"a": {"b": ["1", "2"]}}),
        ("a[b]=1&a[b][c]=2", {"a": {"b": ["1", {"c": "2"}]}}),
    ],
)
def test_names_are_read_as_paths(text: str, wanted: object) -> None:
    assert form(text).values == wanted
    assert form(text, SLACK).values.keys() == {name.partition("=")[0].replace("%5B", "[").replace("%5D", "]")
        .replace("%25", "%") for name in text.split("&")}, "elsewhere, a bracket is a letter"  # fmt: skip


@pytest.mark.parametrize("text", ["a=1&a=2", "a=1&a[b]=2", "a[b]=1&a[b]=2", "a[b]=1&a[]=2", "a[b]=1&a[b][c]=2"])
def test_a_place_with_two_values_is_repeated(text: str) -> None:
    assert form(text).repeated == {"a"}
    with pytest.raises(ProxyRefused, match="ambiguous_parameter"):
        merge(CallParameters(), form(text), ["a/b"])
    assert merge(CallParameters(), form("a[b]=1&a[c]=2"), ["a/b"]) == {"a": {"b": "1", "c": "2"}}  # the twins
    assert merge(CallParameters(), form("a[]=1&a[]=2"), ["a"]) == {"a": ["1", "2"]}


def test_a_place_in_query_and_body_is_repeated() -> None:
    with pytest.raises(ProxyRefused, match="ambiguous_parameter"):
        merge(read_query(b"a[b]=1", STRIPE), form("a[c]=1"), ["a/b"])
    assert merge(read_query(b"a[b]=1", STRIPE), form("d[c]=1"), ["a/b"]) == {"a": {"b": "1"}, "d": {"c": "1"}}
    assert query_names(read_query(b"a[b]=1&a[c]=2", STRIPE)) == {"a[b]", "a[c]"}
    assert query_names(read_query(b"a[b]=1;2", STRIPE)) == {"a[b]", ";"}


@pytest.mark.parametrize("name", ["a[b", "a]b", "a[b]c", "[a]", "a[[b]]", "a[b]]", "a[b][", "a]b[", "a[b]c[d]", "[]"])
def test_brackets_that_servers_could_read_differently_are_refused(name: str) -> None:
    for text in (f"{name}=1", f"{quote(name)}=1", f"x=1&{name}=1"):
        with pytest.raises(ProxyRefused, match="ambiguous_parameter"):
            form(text)
    assert form("a[b][c]=1").values  # the twin
    assert form(f"{name}=1", SLACK).values == {name: "1"}


def test_a_name_with_too_many_steps_is_refused() -> None:
    assert form("a" + "[b]" * 100 + "=1").values
    with pytest.raises(ProxyRefused, match="ambiguous_parameter"):
        form("a" + "[b]" * 101 + "=1")


@pytest.mark.parametrize("name", ["access_token[a]", "_method[a]", "client_secret[]"])
def test_a_path_below_a_credential_or_method_is_refused(name: str) -> None:
    with pytest.raises(ProxyRefused):
        form(f"{name}=1")


def leaves(value: object, way: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    if is_object(value):
        return [one for name, inner in value.items() for one in leaves(inner, (*way, name))]
    return [one for inner in value for one in leaves(inner, way)] if is_array(value) else [(way, value)]


@given(
    st.lists(st.tuples(st.lists(st.sampled_from(["a", "b", "", "0"]), max_size=4), st.sampled_from("xyz")), max_size=6)
)
def test_nothing_that_was_sent_gets_lost(pairs: list[tuple[list[str], str]]) -> None:
    text = "&".join("a" + "".join(f"[{step}]" for step in steps) + f"={value}" for steps, value in pairs)
    sent = [(("a", *(step for step in steps if step not in {"", "0"})), value) for steps, value in pairs]
    assert sorted(leaves(form(text).values)) == sorted(sent)


# What Stripe's rules refuse

PAYMENT = (
    "amount=500&currency=eur&metadata[order]=7&payment_method_options[card][request_three_d_secure]=any&expand[]=x"
)
ELSEWHERE = (
    *("transfer_data[destination]=acct_2", "transfer_data%5Bdestination%5D=acct_2", "transfer_data=acct_2"),
    *("transfer_data[]=acct_2", "transfer_data[0][destination]=acct_2", "transfer_data[destination][]=acct_2"),
    *("transfer_data.destination=acct_2", "transfer_data[destination]=acct_2&transfer_data[destination]=acct_3"),
    *("transfer_data=1&transfer_data[destination]=acct_2", "Transfer_data[destination]=acct_2"),
    *(
        "+transfer_data[destination]=acct_2",
        "transfer_data%00[destination]=acct_2",
        "transfer_data%255Bdestination%255D=a",
    ),
    *("on_behalf_of=acct_2", "application_fee_amount=5", "application_fee_amount[]=5", "on_behalf%5Fof=acct_2"),
)


@pytest.mark.parametrize("added", ELSEWHERE)
def test_no_payment_goes_to_another_account(added: str) -> None:
    assert passes("/payment_intents", PAYMENT)  # the twin
    assert not passes("/payment_intents", f"{PAYMENT}&{added}")
    assert not passes("/payment_intents", f"{added}&{PAYMENT}")
    assert not passes("/payment_intents", added)
    if "%00" not in added and "+" not in added:
        assert not passes("/payment_intents", PAYMENT, query=added)


@pytest.mark.parametrize(
    ("path", "below", "twin"),
    [
        ("/checkout/sessions", "payment_intent_data", "description"),
        ("/checkout/sessions", "subscription_data", "description"),
        ("/subscription_schedules", "phases[0]", "description"),
        ("/subscription_schedules", "phases[]", "description"),
        ("/subscription_schedules/sub_1", "default_settings", "description"),
    ],
)
@pytest.mark.parametrize("name", ["transfer_data[destination]", "on_behalf_of", "transfer_data", "x"])
def test_nor_by_a_member_of_another_member(path: str, below: str, twin: str, name: str) -> None:
    first, bracket, rest = name.partition("[")
    assert passes(path, f"{below}[{twin}]=x")
    assert not passes(path, f"{below}[{first}]{bracket}{rest}=acct_2")
    assert not passes(path, f"{below}[{twin}]=x&{below}[{first}]{bracket}{rest}=acct_2")
    assert not passes(path, f"{below}=x&{below}[{twin}]=x")


@pytest.mark.parametrize("path", ["/customers", "/refunds"])
def test_who_writes_with_an_app_sees_nothing_expanded(path: str) -> None:
    apps = CATALOG.provider("stripe-apps")
    for text, is_allowed in (("metadata[a]=1", True), ("metadata[a]=1&expand[]=payment_intent", False)):
        found = form(text, apps)
        call = Call("main", "POST", path, found.values, Payload(body=found.values))
        assert allows(apps, call, frozenset({"write"})) is is_allowed
