"""Release policies: which client can get which token, the selected policy, and its effect. Pure."""

from __future__ import annotations

import itertools

import pytest

from server.oauth.exchange.release import ReleasePolicy, policy_of, released_narrowing, seconds_left
from vault.records import Client, ClientKind, Narrowing


def client(kind: ClientKind, method: str, **metadata: object) -> Client:
    return Client("c", kind, "c", method, redirect_uris=(), created_at=0, metadata=metadata)


CHOICES: list[object] = [None, {}, {"default": "full"}, {"slack": "full"}, {"k": "full"}, {"slack": "nonsense"}, "full"]


@pytest.mark.requirement("S-117")
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (kind, method)
        for kind, method in itertools.product(ClientKind, ["none", "client_secret_basic", "private_key_jwt"])
        if kind is not ClientKind.MANUAL or method == "none"
    ],
)
def test_who_keeps_no_secret_or_registered_itself_never_gets_more_than_a_handle(kind: ClientKind, method: str) -> None:
    for chosen in CHOICES:
        policy = policy_of(client(kind, method, release=chosen), provider="slack", connection_id="k")
        assert policy is ReleasePolicy.PROXY
        for narrowing, expires in itertools.product(Narrowing, (True, False)):
            assert released_narrowing(policy, narrowing, expires=expires) is None


@pytest.mark.parametrize(
    ("chosen", "policy"),
    [
        (None, "narrowed"),
        ({"google": "full"}, "narrowed"),
        ({"default": "proxy"}, "proxy"),
        ({"default": "proxy", "slack": "narrowed"}, "narrowed"),
        ({"slack": "full"}, "full"),
        ({"slack": "full", "k": "proxy"}, "proxy"),
        ({"k": "full", "slack": "proxy"}, "full"),
        ({"slack": "nonsense"}, "proxy"),
        ("full", "narrowed"),
    ],
    ids=str,
)
def test_the_nearest_choice_of_the_operator_counts(chosen: object, policy: str) -> None:
    known = client(ClientKind.MANUAL, "client_secret_basic", release=chosen)
    assert policy_of(known, provider="slack", connection_id="k").value == policy


def test_what_a_policy_lets_out() -> None:
    upstream, enforced, full = Narrowing.UPSTREAM, Narrowing.ENFORCED, Narrowing.FULL
    assert released_narrowing(ReleasePolicy.NARROWED, upstream, expires=True) is upstream
    assert released_narrowing(ReleasePolicy.NARROWED, enforced, expires=True) is None
    assert released_narrowing(ReleasePolicy.NARROWED, upstream, expires=False) is None, (
        "it would live until somebody revokes it"
    )
    assert released_narrowing(ReleasePolicy.FULL, upstream, expires=False) is upstream
    assert released_narrowing(ReleasePolicy.FULL, enforced, expires=True) is full
    assert full.value == "none"


def test_what_lasts_ends_with_the_first_of_its_ends() -> None:
    assert seconds_left(110, now=100) == 10
    assert seconds_left(110, None, now=100) == 10
    assert seconds_left(110, None, 105, now=100) == 5
    assert seconds_left(110, 120, now=100) == 10
    assert seconds_left(110, now=200) == 0
