"""The child process that hands one message to Apprise. It reads a job from its input, and prints the result.

It has no environment, no settings, and no key; only the target address and the message.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
import sys
from http import HTTPStatus
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final

from providers.outbound.addresses import AddressPolicy
from server.notices.confinement import OutsideConfinement, confine

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
    seen = Answers()
    try:
        is_sent = _hand_over(job, seen)
    except Exception:  # noqa: BLE001 -- another's library, on input from outside: whatever it raises, it didn't send
        is_sent = False
    if is_sent is None:
        return "invalid"
    if is_sent:
        return "sent"
    if seen.failure != "uncertain" and any(one.startswith("address") for one in refused):
        return "address"
    return seen.failure


class Answers:
    """The outcome of the library's requests; once one of them may have delivered the message, others can't change
    that."""

    def __init__(self) -> None:
        self.failure = "unreachable"

    def note(self, status: int) -> None:
        if 200 <= status < 300:
            self.failure = "uncertain"
        elif self.failure != "uncertain":
            self.failure = "busy" if status >= 500 or status == HTTPStatus.TOO_MANY_REQUESTS else "refused"

    def note_lost(self, error: Exception) -> None:
        """A request that was started but had no answer."""
        if not _is_unconnected(error):
            self.failure = "uncertain"


def _is_unconnected(error: Exception) -> bool:
    """Whether no connection, or none to the right server, came about."""
    from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, NewConnectionError, SSLError

    wrapped = error.args[0] if error.args else None
    reason = wrapped.reason if isinstance(wrapped, MaxRetryError) else None
    if isinstance(reason, SSLError):
        return bool(reason.args) and isinstance(reason.args[0], ssl.SSLCertVerificationError)
    return isinstance(error, OutsideConfinement) or isinstance(reason, (ConnectTimeoutError, NewConnectionError))


def _hand_over(job: Mapping[str, Any], seen: Answers) -> bool | None:
    """Whether Apprise reports that it was sent; None for an address that it can't read."""
    import requests

    ask = requests.Session.send

    def send_and_note(self: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        if not (request.url or "").startswith("https://") and not job["allow_loopback"]:
            raise requests.exceptions.InvalidURL
        try:
            answer = ask(self, request, **{**options, "allow_redirects": False})
        except Exception as error:
            seen.note_lost(error)
            raise
        seen.note(answer.status_code)
        return answer

    requests.Session.send = send_and_note
    service = service_of(str(job["url"]))
    if service is None or not job["is_trial"]:
        return None if service is None else _notify(service, job)
    return True if len(service) <= 1 else None  # of several, one can fail, and the library waits between them


def service_of(url: str) -> Any:
    """Apprise's object for a URL; None if it can't read it, or if it names a file to read."""
    import apprise

    library: Any = apprise  # its types say less than `Any`
    service = library.Apprise.instantiate(url, asset=library.AppriseAsset(secure_logging=True))
    if service is None:
        return None
    if any(isinstance(one, library.AppriseAttachment) and one for one in service.__dict__.values()):
        return None
    service.verify_certificate = True  # the address could override this
    service.overflow_mode = library.OverflowMode.TRUNCATE  # otherwise the service refuses a message that is too long
    return service


def _notify(service: Any, job: Mapping[str, Any]) -> bool:
    import apprise

    return bool(service.notify(body=str(job["body"]), title=str(job["title"]), body_format=apprise.NotifyFormat.TEXT))
