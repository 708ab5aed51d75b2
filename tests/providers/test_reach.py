"""What an operator can open for one provider (private networks, an authority, a proxy), and all that stays closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest

from providers.definitions.catalog import ProviderFileRefused, ProviderOverrides, load_catalog
from providers.oauth.client import OAuthUpstream
from providers.outbound.addresses import AddressPolicy, address_problem, private_network, url_problem
from providers.outbound.client import AddressRefused, NotReached, Outbound, OutboundRequest
from server.settings import SettingsRefused, load_settings
from tests.support.doubles.scripted_server import ScriptedServer, json_reply, scripted_server
from tests.support.network.tls import Authority, make_authority
from vault.upstream import NotSent

HOST = "gitlab.corp.example"
BY_HOST = AddressPolicy(private_hosts=frozenset({HOST}))
BY_NETWORK = AddressPolicy(private_networks=(ip_network("10.20.0.0/16"), ip_network("fd12:3456::/32")))
NEVER = (
    *(
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::1",
        "fe80::1%eth0",
    ),
    *("127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "192.0.0.192", "::ffff:10.20.1.1"),
    *("64:ff9b::a14:101", "2002:a14:101::1", "198.18.0.1", "240.0.0.1"),
)


@pytest.mark.parametrize("policy", [BY_HOST, BY_NETWORK, AddressPolicy(private_networks=(ip_network("fc00::/7"),))])
@pytest.mark.parametrize("address", NEVER)
def test_no_setting_opens_this_machine_or_a_clouds_credentials(policy: AddressPolicy, address: str) -> None:
    assert address_problem(address, policy, host=HOST) is not None


@pytest.mark.parametrize(
    ("policy", "host", "address", "is_open"),
    [
        (BY_HOST, HOST, "10.20.1.1", True),
        (BY_HOST, HOST.upper(), "fd12:3456::1", True),
        (BY_HOST, "other.corp.example", "10.20.1.1", False),
        (BY_HOST, f"x.{HOST}", "10.20.1.1", False),
        (BY_NETWORK, "other.corp.example", "10.20.1.1", True),
        (BY_NETWORK, "other.corp.example", "10.21.1.1", False),
        (AddressPolicy(), HOST, "10.20.1.1", False),
    ],
)
def test_only_what_is_listed_is_open(policy: AddressPolicy, host: str, address: str, *, is_open: bool) -> None:
    assert (address_problem(address, policy, host=host) is None) == is_open


def test_an_address_as_host_needs_its_network_and_https_stays() -> None:
    assert url_problem("https://10.20.1.1/api", BY_NETWORK) is None
    assert url_problem("https://10.20.1.1/api", BY_HOST) is not None
    assert url_problem("http://10.20.1.1/api", BY_NETWORK) == "not https"
    assert url_problem(f"http://{HOST}/api", BY_HOST) == "not https"


@dataclass
class Names:
    """A name server that answers differently each time."""

    answers: list[list[str]]
    asked: int = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0)


async def reason(policy: AddressPolicy, names: Names, *, patience: float = 30.0) -> str:
    async with Outbound(lookup=names, connect_timeout=patience) as outbound:
        with pytest.raises(NotReached) as refused:
            await outbound.send(OutboundRequest("GET", f"https://{HOST}/", policy=policy, timeout=30))
    return refused.value.reason if isinstance(refused.value, AddressRefused) else "tried"


async def test_what_was_checked_is_what_is_connected_to() -> None:
    rebinding = Names([["10.20.1.1"], ["169.254.169.254"]])
    assert await reason(BY_HOST, rebinding, patience=0.2) == "tried"
    assert rebinding.asked == 1
    assert await reason(BY_HOST, Names([["10.20.1.1", "169.254.169.254"]])) == "address not allowed"
    assert await reason(AddressPolicy(), Names([["10.20.1.1"]])) == "address not allowed"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("0.0.0.0/0", "isn't inside a private network"),
        ("::/0", "isn't inside a private network"),
        ("8.8.8.8", "isn't inside a private network"),
        ("169.254.0.0/16", "isn't inside a private network"),
        ("127.0.0.0/8", "isn't inside a private network"),
        ("10.0.0.0/7", "isn't inside a private network"),
        ("*.corp.example", "neither a host name nor a network"),
        ("https://corp.example", "neither a host name nor a network"),
        ("localhost", "is this machine"),
        ("x.localhost", "is this machine"),
        ("10.1.2.300", "neither a host name nor a network"),
    ],
)
def test_an_entry_that_opens_too_much_is_refused(entry: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        private_network(entry)
    with pytest.raises(SettingsRefused, match=r"providers\.gitlab\.private"):
        load_settings(overrides={"providers": {"gitlab": {"private": [entry]}}})


def test_entries_for_hosts_and_networks_are_taken() -> None:
    entries = ["gitlab.corp.example", "10.20.0.0/16", "192.168.1.7", "fd12:3456::/32"]
    settings = load_settings(overrides={"providers": {"gitlab": {"private": entries}}})
    reach = settings.providers["gitlab"].reach("gitlab", allow_loopback=False)
    assert reach is not None
    assert (reach.private_hosts, len(reach.private_networks)) == ({"gitlab.corp.example"}, 3)
    assert load_settings().providers == {}


# The operator's own provider, through the whole client


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path, HOST)


@asynccontextmanager
async def tls_server(authority: Authority) -> AsyncGenerator[ScriptedServer]:
    async with scripted_server(
        lambda _: json_reply({"error": "invalid_grant"}, status=400), tls=authority.server()
    ) as at:
        yield at


def upstream_at(port: int, outbound: Outbound, reach: AddressPolicy | None) -> OAuthUpstream:
    base = f"https://{HOST}:{port}"
    settings = ProviderOverrides(
        client_id="ours",
        client_secret="x",
        authorize_url=f"{base}/a",
        token_url=f"{base}/t",
        userinfo_url=f"{base}/me",
        scopes=frozenset({"read"}),
        reach=reach,
    )
    return OAuthUpstream(load_catalog(overrides={"corp": settings}).provider("corp"), outbound)


async def to_this_machine(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


async def test_an_authority_is_trusted_for_its_provider_alone(authority: Authority) -> None:
    loopback = AddressPolicy(allow_loopback=True)
    trusting = AddressPolicy(allow_loopback=True, ca_file=str(authority.authority))
    async with tls_server(authority) as server, Outbound(loopback, lookup=to_this_machine) as outbound:
        there = upstream_at(server.port, outbound, trusting)
        assert (await there.refresh("r")).code == "invalid_grant"  # pyright: ignore[reportAttributeAccessIssue]
        for other in (None, loopback):
            assert await upstream_at(server.port, outbound, other).refresh("r") == NotSent("TLS failed")
        with pytest.raises(NotReached, match="TLS failed"):  # the certificate is for another name
            await outbound.send(OutboundRequest("GET", f"https://other.example:{server.port}/", policy=trusting))


def test_a_file_without_certificates_is_refused_at_start(tmp_path: Path, authority: Authority) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")
    for file, is_good in ((broken, False), (tmp_path / "absent.pem", False), (authority.authority, True)):
        settings = load_settings(overrides={"providers": {"corp": {"ca_file": str(file)}}}).providers["corp"]
        if is_good:
            assert settings.reach("corp", allow_loopback=False) == AddressPolicy(ca_file=str(file))
            continue
        with pytest.raises(SettingsRefused, match=r"providers\.corp\.ca_file"):
            settings.reach("corp", allow_loopback=False)


# Through a proxy


@dataclass
class Proxy:
    """An HTTP proxy that tunnels every CONNECT to one port on this machine, or refuses."""

    port: int = 0
    to: int = 0
    status: int = 200
    heads: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(f"HTTP/1.1 {self.status} X\r\n\r\n".encode())
        if self.status == 200:
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
            await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)
        writer.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def running_proxy(to: int) -> AsyncGenerator[Proxy]:
    proxy = Proxy(to=to)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    yield proxy
    server.close()


async def test_a_proxy_gets_checked_addresses_and_no_names(authority: Authority) -> None:
    trusting = AddressPolicy(ca_file=str(authority.authority))
    public = "93.184.215.14"
    async with tls_server(authority) as server, running_proxy(server.port) as proxy:
        address = f"http://user:pass-canary@127.0.0.1:{proxy.port}"
        async with Outbound(lookup=Names([[public], ["10.20.1.1"], ["169.254.169.254"]]), proxy=address) as outbound:
            request = OutboundRequest("GET", f"https://{HOST}/x", policy=trusting)
            assert (await outbound.send(request)).status == 400
            (head,) = proxy.heads
            assert head.startswith(f"CONNECT {public}:443 ")
            assert "Proxy-Authorization: Basic " in head
            (arrival,) = server.arrivals
            assert (arrival.headers["host"], "proxy-authorization" in arrival.headers) == (HOST, False)
            for _ in range(2):
                with pytest.raises(AddressRefused):
                    await outbound.send(request)
            assert len(proxy.heads) == 1
            with pytest.raises(AddressRefused):
                await outbound.send(OutboundRequest("GET", "https://169.254.169.254/", policy=trusting))
            assert len(proxy.heads) == 1


async def test_a_certificate_must_be_for_the_name_behind_the_proxy_too(authority: Authority) -> None:
    trusting = AddressPolicy(ca_file=str(authority.authority))
    async with tls_server(authority) as server, running_proxy(server.port) as proxy:
        names = Names([["93.184.215.14"]])
        async with Outbound(lookup=names, proxy=f"http://127.0.0.1:{proxy.port}") as outbound:
            with pytest.raises(NotReached, match="TLS failed"):
                await outbound.send(OutboundRequest("GET", "https://other.example/", policy=trusting))
    assert server.arrivals == []


async def test_a_proxy_that_refuses_has_sent_nothing(authority: Authority) -> None:
    async with tls_server(authority) as server, running_proxy(server.port) as proxy:
        proxy.status = 403
        names = Names([["93.184.215.14"]])
        async with Outbound(lookup=names, proxy=f"http://127.0.0.1:{proxy.port}") as outbound:
            with pytest.raises(NotReached, match="outbound proxy refused"):
                await outbound.send(OutboundRequest("POST", f"https://{HOST}/", body=b"x"))


async def test_this_machine_and_private_hosts_are_reached_past_the_proxy(authority: Authority) -> None:
    async with scripted_server(lambda _: json_reply({})) as server, running_proxy(server.port) as proxy:
        loopback = AddressPolicy(allow_loopback=True)
        async with Outbound(
            loopback, lookup=Names([["10.20.1.1"]]), connect_timeout=0.5, proxy=f"http://127.0.0.1:{proxy.port}"
        ) as outbound:
            assert (await outbound.send(OutboundRequest("GET", server.url))).status == 200
            with pytest.raises(NotReached):
                await outbound.send(OutboundRequest("GET", f"https://{HOST}/", policy=BY_HOST, timeout=2))
        assert proxy.heads == []


def test_the_proxys_address_comes_from_a_setting_a_file_or_where_it_says_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert load_settings().outbound.proxy_address() is None
    assert load_settings(overrides={"outbound": {"proxy": "environment"}}).outbound.proxy_address() == (
        "http://proxy.example:3128"
    )
    file = tmp_path / "proxy"
    file.write_text("http://u:p@proxy.example:8080\n")
    settings = load_settings(overrides={"outbound": {"proxy_file": str(file)}})
    assert settings.outbound.proxy_address() == "http://u:p@proxy.example:8080"
    assert "proxy.example" not in repr(
        load_settings(overrides={"outbound": {"proxy": "http://u:p@proxy.example:8080"}})
    )
    for wrong in ("proxy.example:3128", "socks5://proxy.example:1080", "http://proxy.example", "http://proxy:1/x"):
        with pytest.raises(SettingsRefused, match=r"outbound\.proxy"):
            load_settings(overrides={"outbound": {"proxy": wrong}}).outbound.proxy_address()


# Inputs


def test_an_input_is_demanded_only_for_an_address_that_is_in_use() -> None:
    base = "https://id.corp.example"
    okta = load_catalog().provider("okta")
    everything = ProviderOverrides(
        client_id="x",
        authorize_url=f"{base}/a",
        token_url=f"{base}/t",
        revoke_url=f"{base}/r",
        userinfo_url=f"{base}/me",
        apis=dict.fromkeys(okta.apis, f"{base}/api"),
    )
    moved = load_catalog(overrides={"okta": everything}).provider("okta")
    assert (moved.hosts.token_url, moved.identity_url) == (f"{base}/t", f"{base}/me")
    with pytest.raises(ProviderFileRefused, match=r"okta\.inputs\.org: missing"):
        load_catalog(overrides={"okta": ProviderOverrides(client_id="x", authorize_url=f"{base}/a")})
