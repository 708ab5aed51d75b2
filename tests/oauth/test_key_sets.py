"""The only reader of others' key sets: which keys count for which algorithm, how often it fetches, what it keeps."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from providers.definitions.issuers import KEPT_IN_OUTAGE, RETRY_IN_OUTAGE
from providers.outbound.addresses import PUBLIC_ONLY, AddressPolicy
from providers.outbound.client import Outbound
from server.signatures import jose
from server.signatures.key_sets import (
    KEPT,
    RETRY,
    RETRY_FOREIGN,
    NoKeys,
    claims_of_issuer,
    keys_behind,
    usable_keys,
)
from tests.support.doubles.openid_double import OUTAGES, Claims, OpenIDDouble, running_openid
from tests.support.rooms.oauth_world import sign_jwt

LOOPBACK = AddressPolicy(allow_loopback=True)
CLAIMS: Claims = {"sub": "s"}
Key = RSAKey | ECKey | OKPKey
RSA = RSAKey.generate_key(2048, {"kid": "op-1"})
KEYS: dict[str, Key] = {
    "RS256": RSA,
    "PS256": RSA,
    "ES256": ECKey.generate_key("P-256", {"kid": "op-1"}),
    "ES384": ECKey.generate_key("P-384", {"kid": "op-1"}),
    "EdDSA": OKPKey.generate_key("Ed25519", {"kid": "op-1"}),
    "Ed25519": OKPKey.generate_key("Ed25519", {"kid": "op-1"}),
}


@dataclass
class Reader:
    """A vault's reader and the issuer whose key set it reads."""

    issuer: OpenIDDouble
    outbound: Outbound
    now: int = 1_000_000

    @property
    def url(self) -> str:
        return f"{self.issuer.url}/jwks"

    @property
    def looks(self) -> int:
        return self.issuer.fetched.count("/jwks")

    async def counts(self, token: str, policy: AddressPolicy = LOOPBACK) -> bool:
        try:
            return await claims_of_issuer(self.outbound, token, self.url, policy=policy, now=self.now) == CLAIMS
        except jose.TokenMalformed:
            return False


@pytest.fixture(scope="module")
async def issuer() -> AsyncGenerator[OpenIDDouble]:
    async with running_openid(lambda: 0) as double:
        yield double


@pytest.fixture
async def reader(issuer: OpenIDDouble) -> AsyncGenerator[Reader]:
    issuer.reset()
    issuer.key = RSA
    async with Outbound(PUBLIC_ONLY) as outbound:
        yield Reader(issuer, outbound)


def _part(content: object) -> str:
    return urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def _relabel(token: str, **header: object) -> str:
    """The token with another header; the signature stays the same."""
    head = {name: value for name, value in (dict(jose.unverified_header(token)) | header).items() if value is not None}
    return ".".join([_part(head), *token.split(".")[1:]])


@pytest.mark.requirement("S-134")
@pytest.mark.parametrize("algorithm", jose.ISSUER_ALGORITHMS)
async def test_a_key_counts_for_its_own_algorithm_only(reader: Reader, algorithm: str) -> None:
    reader.issuer.key, reader.issuer.algorithm = KEYS[algorithm], algorithm
    token = reader.issuer.sign_claims(CLAIMS)
    assert await reader.counts(token)
    for other in ("none", "HS256", "RS512", algorithm.lower(), ""):
        assert not await reader.counts(_relabel(token, alg=other)), other
    families = ({"RS256", "PS256"}, {"EdDSA", "Ed25519"})  # two paddings for one key, two names for one algorithm
    for other in jose.ISSUER_ALGORITHMS:
        is_fit = other == algorithm or {other, algorithm} in families
        assert bool(usable_keys({"keys": [reader.issuer.key.as_dict(private=False)]}, algorithms=[other])) == is_fit
    for change, fits in (({"alg": "RS512"}, False), ({"use": "enc"}, False), ({"alg": algorithm, "use": "sig"}, True)):
        reader.now += KEPT
        reader.issuer.change_keys = lambda keys, change=change: [{**keys[0], **change}]
        assert await reader.counts(token) == fits, change


@pytest.mark.requirement("S-134")
async def test_the_public_key_is_no_secret_of_an_hmac(reader: Reader) -> None:
    assert await reader.counts(reader.issuer.sign_claims(CLAIMS))
    assert not await reader.counts(reader.issuer.signed_with_hmac_of_the_public_key(CLAIMS))
    assert not await reader.counts(reader.issuer.unsigned_token(CLAIMS))


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "OKP", "crv": "X25519", "x": "A" * 43},
        {"kty": "OKP", "crv": "Ed448", "x": "A" * 76},
        {"kty": "OKP", "crv": "Ed25519", "x": "A" * 10},
        {"kty": "OKP", "x": "A" * 43},
        {"kty": "EC", "crv": "P-521", "x": "A" * 88, "y": "A" * 88},
        {"kty": "EC", "crv": "P-384", "x": "A" * 64, "y": "A" * 64},
        {"kty": "RSA", "n": "A" * 171, "e": "AQAB"},
        {"kty": "oct", "x": "A" * 43},
        {},
    ],
    ids=str,
)
def test_a_key_that_fits_no_algorithm_is_left_out(key: dict[str, object]) -> None:
    good = dict(KEYS["ES256"].as_dict(private=False))
    assert usable_keys({"keys": [key, good]}) == (good,)
    secret = dict(KEYS["ES256"].as_dict(private=True))
    assert usable_keys({"keys": [secret, good]}) == (), "a private key spoils the set"


async def test_keys_of_a_token_that_names_none_are_tried_and_a_named_one_must_be_there(reader: Reader) -> None:
    other = dict(RSAKey.generate_key(2048, {"kid": "op-0"}).as_dict(private=False))
    reader.issuer.change_keys = lambda keys: [other, *keys]
    token = reader.issuer.sign_claims(CLAIMS)
    assert await reader.counts(token)
    assert not await reader.counts(_relabel(token, kid="op-0"))
    assert not await reader.counts(_relabel(token, kid=7))
    assert await reader.counts(sign_jwt({"alg": "RS256"}, CLAIMS, RSA))
    assert not await reader.counts(sign_jwt({"alg": "RS256"}, CLAIMS, RSAKey.generate_key(2048)))


@pytest.mark.requirement("S-134")
async def test_unknown_keys_make_nobody_look_more_often_than_the_pause(reader: Reader) -> None:
    token = reader.issuer.sign_claims(CLAIMS)
    storm = [_relabel(token, kid=f"unknown-{number}") for number in range(60)]
    assert not any(await asyncio.gather(*map(reader.counts, storm)))
    assert reader.looks == 1
    reader.now += RETRY - 1
    assert not any(await asyncio.gather(*map(reader.counts, storm)))
    assert await reader.counts(token)
    assert reader.looks == 1
    reader.now += 1
    assert await reader.counts(token), "a known key needs no look"
    assert reader.looks == 1
    assert not any(await asyncio.gather(*map(reader.counts, storm)))
    assert reader.looks == 2


@pytest.mark.requirement("S-134")
@pytest.mark.parametrize("kid", ["op-2", "op-1", None], ids=["another id", "the same id", "no id"])
async def test_a_new_key_of_the_issuer_counts_after_the_pause_and_the_old_one_no_longer(
    reader: Reader, kid: str | None
) -> None:
    reader.issuer.key = RSAKey.generate_key(2048, None if kid is None else {"kid": "op-1"}, auto_kid=False)
    old = reader.issuer.sign_claims(CLAIMS)
    assert await reader.counts(old)
    reader.issuer.key = RSAKey.generate_key(2048, None if kid is None else {"kid": kid}, auto_kid=False)
    new = reader.issuer.sign_claims(CLAIMS)
    reader.now += RETRY - 1
    assert not await reader.counts(new)
    assert await reader.counts(old)
    reader.now += 1
    assert await reader.counts(new)
    assert not await reader.counts(old)
    assert reader.looks == 2


async def test_a_key_that_was_taken_away_counts_no_longer_than_it_is_kept(reader: Reader) -> None:
    token = reader.issuer.sign_claims(CLAIMS)
    assert await reader.counts(token)
    reader.issuer.key = KEYS["ES256"]
    for passed, counts in ((KEPT - 1, True), (1, False)):
        reader.now += passed
        assert await reader.counts(token) == counts
    reader.now -= 3600  # setting the clock back keeps nothing longer
    reader.issuer.key = RSA
    assert await reader.counts(token)


async def test_a_set_that_cannot_be_read_is_told_from_one_without_the_key(reader: Reader) -> None:
    token = reader.issuer.sign_claims(CLAIMS)
    reader.issuer.broken = "keys"
    with pytest.raises(NoKeys):
        await claims_of_issuer(reader.outbound, token, reader.url, policy=LOOPBACK, now=reader.now)
    reader.issuer.broken = ""
    reader.now += RETRY
    assert await reader.counts(token)
    with pytest.raises(jose.TokenMalformed) as refusal:
        await claims_of_issuer(reader.outbound, _relabel(token, kid="x"), reader.url, policy=LOOPBACK, now=reader.now)
    assert not isinstance(refusal.value, NoKeys)


@pytest.mark.requirement("S-172")
@pytest.mark.parametrize("outage", [*OUTAGES, "keys"])
async def test_kept_keys_count_for_an_hour_while_the_address_gives_no_set(reader: Reader, outage: str) -> None:
    token = reader.issuer.sign_claims(CLAIMS)
    assert await reader.counts(token)
    reader.issuer.broken, passed = outage, 0
    for more, looks in ((KEPT - 1, 1), (1, 2), (RETRY_IN_OUTAGE - 1, 2), (1, 3)):
        reader.now, passed = reader.now + more, passed + more
        assert await reader.counts(token)
        assert reader.looks == looks
    reader.now += KEPT_IN_OUTAGE - passed - 1
    assert await reader.counts(token)
    reader.now += 1
    assert not await reader.counts(token)
    reader.issuer.broken = ""
    reader.now += RETRY
    assert await reader.counts(token)


@pytest.mark.requirement("S-172")
async def test_a_set_that_arrives_after_an_outage_ends_the_keys_that_it_no_longer_lists(reader: Reader) -> None:
    taken = RSAKey.generate_key(2048, {"kid": "taken"})
    reader.issuer.change_keys = lambda keys: [*keys, dict(taken.as_dict(private=False))]
    of_taken, of_kept = sign_jwt({"alg": "RS256", "kid": "taken"}, CLAIMS, taken), reader.issuer.sign_claims(CLAIMS)
    reader.issuer.broken = ""
    assert await reader.counts(of_taken)
    reader.issuer.broken = "unavailable"
    reader.now += KEPT
    assert await reader.counts(of_taken)
    reader.issuer.broken = ""
    reader.issuer.change_keys = lambda keys: keys
    reader.now += RETRY_IN_OUTAGE
    assert not await reader.counts(of_taken)
    assert await reader.counts(of_kept)


@pytest.mark.parametrize("answered", ["an empty set", "a set with a private key", "no usable key"])
async def test_a_set_without_a_usable_key_ends_the_kept_keys(reader: Reader, answered: str) -> None:
    token = reader.issuer.sign_claims(CLAIMS)
    assert await reader.counts(token)
    sets: dict[str, list[dict[str, object]]] = {
        "an empty set": [],
        "a set with a private key": [dict(RSA.as_dict(private=True))],
        "no usable key": [{"kty": "oct", "kid": "op-1"}],
    }
    reader.issuer.change_keys = lambda keys: sets[answered]
    reader.now += KEPT
    assert not await reader.counts(token)
    reader.issuer.broken = "unavailable"
    reader.now += RETRY
    assert not await reader.counts(token), "an outage brings nothing back"


async def test_an_outage_keeps_no_key_that_did_not_count_before(reader: Reader) -> None:
    token = reader.issuer.sign_claims(CLAIMS)
    assert await reader.counts(token)
    reader.issuer.broken = "unavailable"
    reader.now += KEPT
    assert not await reader.counts(sign_jwt({"alg": "RS256", "kid": "op-1"}, CLAIMS, RSAKey.generate_key(2048)))
    assert not await reader.counts(_relabel(token, kid="other"))
    assert not await reader.counts(token.rpartition(".")[0] + ".AAAA")
    reader.now -= 2 * KEPT  # setting the clock back keeps nothing longer
    assert not await reader.counts(token)


async def test_keys_of_strangers_outlast_an_outage_too(reader: Reader) -> None:
    async def finds_keys() -> bool:
        keys = await keys_behind(
            reader.outbound, reader.url, kid="op-1", policy=LOOPBACK, on_behalf_of="192.0.2.1", now=reader.now
        )
        return bool(keys)

    assert await finds_keys()
    reader.issuer.broken = "unavailable"
    reader.now += KEPT_IN_OUTAGE - 1
    assert await finds_keys()
    reader.now += 1
    assert not await finds_keys()


async def test_a_set_is_read_up_to_a_quarter_of_a_megabyte(reader: Reader) -> None:
    token = reader.issuer.sign_claims(CLAIMS)
    for size, fits in ((250_000, True), (270_000, False)):
        reader.now += KEPT_IN_OUTAGE  # so that the answer can't come from what was kept
        reader.issuer.change_keys = lambda keys, size=size: [{**keys[0], "x5c": ["A" * size]}]
        assert await reader.counts(token) == fits


@pytest.mark.requirement("S-134")
async def test_keys_inside_are_not_fetched_unless_that_is_allowed(reader: Reader) -> None:
    token = reader.issuer.sign_claims(CLAIMS)
    assert not await reader.counts(token, PUBLIC_ONLY)
    assert reader.looks == 0
    reader.now += RETRY
    assert await reader.counts(token)


async def test_a_bounded_number_of_addresses_is_remembered(reader: Reader) -> None:
    async def look(number: int) -> None:
        url = f"{reader.url}?n={number}"
        assert await keys_behind(reader.outbound, url, kid=None, policy=LOOPBACK, on_behalf_of=None, now=reader.now)

    for number in range(257):
        await look(number)
    assert reader.looks == 257
    await look(256)
    assert reader.looks == 257
    await look(0)
    assert reader.looks == 258


async def test_what_strangers_name_is_looked_at_less_often_and_kept_apart(reader: Reader) -> None:
    async def look(whose: str | None, kid: str) -> bool:
        found = await keys_behind(
            reader.outbound, reader.url, kid=kid, policy=LOOPBACK, on_behalf_of=whose, now=reader.now
        )
        return bool(found)

    assert await look("192.0.2.1", "op-1")
    assert await look(None, "op-1")
    assert reader.looks == 2
    reader.now += RETRY_FOREIGN - 1
    assert not await look("192.0.2.1", "unknown")
    assert reader.looks == 2
    assert not await look(None, "unknown")
    assert reader.looks == 3
    reader.now += 1
    assert not await look("192.0.2.1", "unknown")
    assert reader.looks == 4
