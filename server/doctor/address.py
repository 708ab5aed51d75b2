"""Checks of the address: who uses the port, and what a client sees at the public URL."""

from __future__ import annotations

import asyncio
import http.client
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from providers.outbound.json_values import parse_object
from server.deployment import Deployment
from server.doctor.findings import Finding, note, ok, problem
from server.lifecycle.loopback import Holder, Sight, address_of, foreign_holder, look

TIMEOUT: Final = 5.0  # seconds
SKEW: Final = 30  # seconds that clocks may differ: about the tolerance for proofs and tokens
_WRONG_HOST: Final = frozenset({62, 63, 64})  # OpenSSL's X509_V_ERR_HOSTNAME, _EMAIL and _IP_ADDRESS _MISMATCH
_SERVE: Final = "start token-vault serve, or a stdio client"


@dataclass(frozen=True, slots=True)
class FetchedAnswer:
    """An answer as a client sees it, or the reason why there is none."""

    status: int = 0
    content: Mapping[str, object] | None = None
    location: str = ""
    date: str = ""
    failure: str = ""  # refused | untrusted | host | tls | unreachable


def fetch(url: str) -> FetchedAnswer:
    """Request our own public address. Blocking, with a time limit, without redirects. The operator chose the URL."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        connection.request("GET", parts.path, headers={"Accept": "application/json"})
        answer = connection.getresponse()
        body = answer.read(64 * 1024)
    except ConnectionRefusedError:
        return FetchedAnswer(failure="refused")
    except ssl.SSLCertVerificationError as error:
        return FetchedAnswer(failure="host" if error.verify_code in _WRONG_HOST else "untrusted")
    except ssl.SSLError:
        return FetchedAnswer(failure="tls")
    except (OSError, http.client.HTTPException):
        return FetchedAnswer(failure="unreachable")
    finally:
        connection.close()
    return FetchedAnswer(
        answer.status, parse_object(body), answer.getheader("location", ""), answer.getheader("date", "")
    )


async def check_serving(deployment: Deployment) -> Iterator[Finding]:
    """Check the port, the public URL, and the clock."""
    sight = await asyncio.to_thread(look, address_of(deployment))
    health = await asyncio.to_thread(fetch, deployment.url("/healthz"))
    metadata = await asyncio.to_thread(fetch, deployment.url("/.well-known/oauth-authorization-server"))
    return iter(
        (_port(deployment, sight), _public(deployment, sight.holder, health, metadata), check_clock(deployment, health))
    )


def _port(deployment: Deployment, sight: Sight) -> Finding:
    server = deployment.settings.server
    where = f"port {server.port} of {server.host}"
    match sight.holder:
        case Holder.FOREIGN:
            who = foreign_holder(address_of(deployment), sight).partition(". ")[0]
            return problem("port", f"{where}: {who}", fix="stop it, or choose another server.port")
        case Holder.NOBODY:
            return note("port", f"{where} is free: the vault isn't running", fix=_SERVE)
        case _:
            return ok("port", f"a process of this vault is using {where}")


def _public(deployment: Deployment, holder: Holder, health: FetchedAnswer, metadata: FetchedAnswer) -> Finding:
    """Check whether a client finds this vault at the public URL, under that exact name."""
    url, check = deployment.public_url, "public_url"
    if holder is Holder.NOBODY and health.failure:
        return note(check, f"{url} can't be checked while the vault isn't running", fix=_SERVE)
    if health.failure == "untrusted":
        return problem(
            check,
            f"the certificate at {url} has expired, or this machine doesn't trust its issuer",
            fix="renew it at the proxy; for your own authority, set SSL_CERT_FILE (docs/operate/tls-proxy.md)",
        )
    if health.failure == "host":
        host = urlsplit(url).hostname
        return problem(
            check,
            f"the certificate at {url} isn't valid for {host}",
            fix="configure the proxy with a certificate for that name, or correct server.public_url",
        )
    if health.failure == "tls":
        return problem(
            check,
            f"the server at {url} doesn't use TLS",
            fix="configure the proxy for https, or correct server.public_url",
        )
    if health.failure:
        # For this machine itself, no proxy can be down: the program that uses the port doesn't answer.
        is_direct = urlsplit(url).scheme == "http" and urlsplit(url).port == deployment.settings.server.port
        fix = (
            "fix the port first, see above"
            if is_direct
            else "start the proxy or tunnel, or correct server.public_url and its DNS name"
        )
        return problem(check, f"{url} can't be reached", fix=fix)
    if 300 <= health.status < 400:
        target = urlsplit(health.location)
        sentence = f"{url} redirects clients to {target.scheme}://{target.netloc}"
        return problem(check, sentence, fix="set server.public_url to the address that doesn't redirect")
    if health.status == HTTPStatus.MISDIRECTED_REQUEST:
        return problem(
            check,
            f"requests for {url} arrive here with a different Host header",
            fix="configure the proxy to pass Host unchanged, or add what it sends to server.allowed_hosts",
        )
    if health.content is None or health.content.get("vault") != deployment.vault_id:
        return problem(
            check,
            f"something other than this vault answers at {url}",
            fix="correct server.public_url, or the proxy's target",
        )
    seen = None if metadata.content is None else metadata.content.get("issuer")
    if seen != url:
        return problem(
            check,
            f"the vault tells clients that its address is {seen}, but the settings have {url}",
            fix="restart the running process; if the address is new, enter the new redirect URL at the providers",
        )
    return ok(check, f"{url} reaches this vault by that name")


def check_clock(deployment: Deployment, seen: FetchedAnswer) -> Finding:
    """Compare our clock with an answer's and with the database's."""
    here = time.time()
    apart = abs(here - deployment.now())
    if apart > SKEW:
        return problem(
            "clock",
            f"the database's clock differs from this machine's by {apart:.0f} s",
            fix="synchronize both with NTP",
        )
    there = instant(seen.date)
    if there is not None and abs(here - there) > SKEW:
        return problem(
            "clock",
            f"the clock at {deployment.public_url} differs from this machine's by {abs(here - there):.0f} s",
            fix="synchronize both with NTP",
        )
    return ok("clock", "this machine and the database agree" + ("" if there is None else ", and the public address"))


def instant(date: str) -> float | None:
    """The time in a Date header."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
