"""Request and verify time stamps of checkpoints from an authority that the operator chooses (RFC 3161).

The stamp covers the bytes of the whole checkpoint: `openssl ts -verify -data FILE -in FILE.tsr -CAfile CA` verifies it.
"""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509

from providers.outbound.addresses import policy_for_host_of
from providers.outbound.client import Outbound
from providers.outbound.messages import HttpError, OutboundRequest
from server.checkpoints.copies import DestinationFailed

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

_TIMEOUT: Final = 15.0  # seconds
_ANSWER_LIMIT: Final = 64 * 1024  # bytes
_NEEDS: Final = "checkpoints.timestamp_url needs a further package: pip install 'mcp-token-vault[checkpoints]'"


class TimeStampAuthority:
    """The authority at `checkpoints.timestamp_url`; its stamps must chain to `ca_file` and have `policy` unless
    empty."""

    def __init__(self, url: str, http: Outbound, *, ca_file: Path, policy: str) -> None:
        self._url = url
        self._http = http
        self._ca_file = ca_file.expanduser()
        self._wanted = policy
        self._policy = policy_for_host_of(url)
        self.name = f"time stamps {url}"

    async def stamp(self, content: bytes) -> bytes:
        """A verified time stamp for these bytes: the authority's whole answer in DER. Raises DestinationFailed."""
        try:
            from rfc3161_client import HashAlgorithm, TimestampRequestBuilder
        except ImportError as error:
            raise DestinationFailed(_NEEDS) from error
        asked = TimestampRequestBuilder().data(content).hash_algorithm(HashAlgorithm.SHA256).build()
        request = OutboundRequest(
            "POST",
            self._url,
            headers={"Content-Type": "application/timestamp-query", "User-Agent": "token-vault"},
            body=asked.as_bytes(),
            timeout=_TIMEOUT,
            max_bytes=_ANSWER_LIMIT,
            policy=self._policy,
            peer="timestamps",
        )
        try:
            answer = await self._http.send(request)
        except HttpError as error:
            raise DestinationFailed(f"{self._url} didn't answer: {error.reason}") from error
        if answer.status != HTTPStatus.OK:
            raise DestinationFailed(f"{self._url} answered with status {answer.status}")
        self.stamped_at(content, answer.body, nonce=asked.nonce)
        return answer.body

    def stamped_at(self, content: bytes, stamp: bytes, *, nonce: int | None = None) -> int:
        """When these bytes were stamped, in seconds, verified up to `ca_file`. Raises DestinationFailed."""
        try:
            from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response
        except ImportError as error:
            raise DestinationFailed(_NEEDS) from error
        builder = VerifierBuilder()
        for root in self._roots():
            builder = builder.add_root_certificate(root)
        if nonce is not None:
            builder = builder.nonce(nonce)
        if self._wanted:
            builder = builder.policy_id(x509.ObjectIdentifier(self._wanted))
        try:
            found: TimeStampResponse = decode_timestamp_response(stamp)
            builder.build().verify_message(found, content)
        except (VerificationError, ValueError) as error:
            raise DestinationFailed(f"a time stamp from {self._url} isn't valid: {error}") from error
        return int(found.tst_info.gen_time.timestamp())

    def _roots(self) -> list[x509.Certificate]:
        try:
            return x509.load_pem_x509_certificates(self._ca_file.read_bytes())
        except (OSError, ValueError) as error:
            raise DestinationFailed(f"checkpoints.timestamp_ca_file: can't read {self._ca_file}") from error
