"""Which address a request counts for."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.http.addresses import UNKNOWN, counting_key
from server.settings import SettingsRefused, load_settings
from tests.support.harness import RunningVault, running_vault

METADATA = {"redirect_uris": ["http://127.0.0.1:33418/callback"], "token_endpoint_auth_method": "none"}
FEW = {"registration": {"per_address_hourly": 2, "total_hourly": 1000}}


def test_an_ipv6_network_of_one_customer_counts_as_one() -> None:
    assert counting_key("2001:db8:1:2::1") == counting_key("2001:db8:1:2:ffff:ffff:ffff:ffff") == "2001:db8:1:2::/64"
    assert counting_key("2001:db8:1:3::1") != counting_key("2001:db8:1:2::1")


def test_each_ipv4_address_counts_for_itself_however_it_is_written() -> None:
    assert counting_key("192.0.2.1") == counting_key("::ffff:192.0.2.1") == "192.0.2.1"
    assert counting_key("192.0.2.2") != counting_key("192.0.2.1")
    assert counting_key("fe80::1%eth0") == "fe80::/64"


@given(st.text())
def test_what_is_no_address_counts_as_one_stranger(text: str) -> None:
    assert counting_key(text) == UNKNOWN or "." in text or ":" in text


async def register(vault: RunningVault, forwarded: str) -> int:
    async with httpx2.AsyncClient(base_url=vault.url, timeout=30) as http:
        return (await http.post("/register", json=METADATA, headers={"X-Forwarded-For": forwarded})).status_code


async def test_a_forwarded_address_counts_from_nobody_by_default(tmp_path: Path) -> None:
    async with running_vault(tmp_path, overrides=FEW) as vault:
        found = [await register(vault, f"192.0.2.{last}") for last in range(3)]
        assert found == [201, 201, 429]


async def test_the_address_that_a_named_proxy_forwards_for_counts(tmp_path: Path) -> None:
    named = FEW | {"server": {"trusted_proxies": ["127.0.0.0/8"]}}
    async with running_vault(tmp_path, overrides=named) as vault:
        assert [await register(vault, f"192.0.2.{last}") for last in range(3)] == [201, 201, 201]
        for host in ("1", "2"):
            assert await register(vault, f"2001:db8:1:2::{host}") == 201
        assert await register(vault, "2001:db8:1:2:3:4:5:6") == 429
        assert await register(vault, "2001:db8:1:3::1") == 201
        # addresses sent by the client itself come before the one that the proxy adds
        assert [await register(vault, f"198.51.100.{last}, 192.0.2.77") for last in range(3)] == [201, 201, 429]


@pytest.mark.parametrize("wrong", ["*", "0.0.0.0/0", "::/0", "proxy.example", "10.0.0.0/99"])
def test_proxies_are_named_by_address(wrong: str) -> None:
    with pytest.raises(SettingsRefused, match="trusted_proxies"):
        load_settings(overrides={"server": {"trusted_proxies": [wrong]}})
    assert load_settings(overrides={"server": {"trusted_proxies": ["10.0.0.0/8", "::1"]}})
