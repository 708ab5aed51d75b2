"""The child process that hands one message to Apprise. It reads a job from its input, and prints what came of it.

It has no environment, no settings, and no key; only the one address that it sends to, and the message.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final

from providers.outbound.addresses import AddressPolicy
from server.notifying.confinement import confine

if TYPE_CHECKING:
    from collections.abc import Mapping

INPUT_LIMIT: Final = 64 * 1024  # bytes


def main() -> None:
    """Do one job."""
    job: Mapping[str, Any] = json.loads(sys.stdin.buffer.read(INPUT_LIMIT))
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    for stream in (sys.stdout, sys.stderr):  # the library prints what is secret
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    logging.disable()
    answer.write(send(job))
    answer.close()


def send(job: Mapping[str, Any]) -> str:
    """A key of `notice_failure`, `invalid` for an address that Apprise can't read, or `sent`."""
    policy = AddressPolicy(
        allow_loopback=bool(job["allow_loopback"]),
        private_networks=tuple(ip_network(one) for one in job["private_networks"]),
    )
    refused = confine(policy)
    seen = _Answers()
    try:
        is_sent = _hand_over(job, seen)
    except Exception:  # noqa: BLE001 -- another's library, on input from outside: whatever it raises, it didn't send
        is_sent = False
    if is_sent is None:
        return "invalid"
    if is_sent:
        return "sent"
    if any(one.startswith("address") for one in refused):
        return "address"
    return seen.failure


class _Answers:
    """What the requests of the library came to."""

    def __init__(self) -> None:
        self.failure = "unreachable"

    def note(self, status: int) -> None:
        self.failure = "busy" if status >= 500 or status == 429 else "refused"


def _hand_over(job: Mapping[str, Any], seen: _Answers) -> bool | None:
    """Whether Apprise says that it was sent; None for an address that it can't read."""
    import apprise
    import requests

    library: Any = apprise  # its types say less than `Any`
    ask = requests.Session.send

    def send_and_note(self: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        if not (request.url or "").startswith("https://") and not job["allow_loopback"]:
            raise requests.exceptions.InvalidURL
        try:
            answer = ask(self, request, **{**options, "allow_redirects": False})
        except requests.ReadTimeout:
            seen.failure = "uncertain"
            raise
        seen.note(answer.status_code)
        return answer

    requests.Session.send = send_and_note
    made: Any = library.Apprise.instantiate(str(job["url"]), asset=library.AppriseAsset(secure_logging=True))
    if made is None:
        return None
    made.verify_certificate = True  # the address could say otherwise
    if job["is_trial"]:
        return True
    return bool(made.notify(body=str(job["body"]), title=str(job["title"]), body_format=library.NotifyFormat.TEXT))
