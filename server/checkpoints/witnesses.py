"""Ask a witness to cosign a checkpoint (https://c2sp.org/tlog-witness). It remembers the largest tree that it has
seen."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from providers.outbound.addresses import policy_for_host_of
from providers.outbound.client import Outbound
from providers.outbound.messages import HttpError, OutboundRequest, OutboundResponse
from server.checkpoints.copies import DestinationFailed
from vault.audit.log import SignedCheckpoint
from vault.audit.notes import Note, NoteRefused, Signature, Verifier
from vault.audit.tree import Tree

_TIMEOUT: Final = 15.0  # seconds
_ANSWER_LIMIT: Final = 64 * 1024  # bytes
_OTHER_SIZE: Final = HTTPStatus.CONFLICT


class WitnessAhead(Exception):
    """The witness cosigned a larger tree, of `size` leaves."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class WitnessContradicts(Exception):
    """The tree doesn't continue the one that the witness cosigned, of `size` leaves."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Witness:
    """The witness at `checkpoints.witness_url`."""

    def __init__(self, url: str, verifier: Verifier, http: Outbound) -> None:
        self._url = url.rstrip("/") + "/add-checkpoint"
        self._http = http
        self._policy = policy_for_host_of(url)
        self.verifier = verifier
        self.name = f"witness {self.verifier.name}"

    async def cosign(self, issued: SignedCheckpoint, tree: Tree) -> SignedCheckpoint:
        """The checkpoint with the witness's signature. Raises DestinationFailed, WitnessAhead, WitnessContradicts."""
        note = Note(issued.note.text, tuple(one for one in issued.note.signatures if one.name != self.verifier.name))
        known = 0
        answer = await self._submit(note, known, tree)
        if answer.status == _OTHER_SIZE:
            known = self._size_of(answer)
            if known > issued.head.size:
                raise WitnessAhead(known)
            answer = await self._submit(note, known, tree)
        if answer.status in {_OTHER_SIZE, HTTPStatus.UNPROCESSABLE_ENTITY}:
            raise WitnessContradicts(known)
        if answer.status in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
            raise DestinationFailed(f"{self.name} doesn't know this log: give it the key of token-vault activity keys")
        if answer.status != HTTPStatus.OK:
            raise DestinationFailed(f"{self.name} answered with status {answer.status}")
        return replace(issued, note=self._with_cosignature(note, answer))

    def _with_cosignature(self, note: Note, answer: OutboundResponse) -> Note:
        try:
            lines = answer.body.decode().split("\n")
            found = tuple(Signature.parse(line) for line in lines if line)
            mine = tuple(one for one in found if (one.name, one.key_id) == (self.verifier.name, self.verifier.id))
            cosigned = Note(note.text, (*note.signatures, *mine))
            if not mine or not cosigned.signed_by([self.verifier]):
                raise DestinationFailed(f"{self.name} answered without its signature")
        except (NoteRefused, UnicodeDecodeError) as error:
            raise DestinationFailed(f"the answer of {self.name} isn't a valid signature") from error
        return cosigned

    async def _submit(self, note: Note, known: int, tree: Tree) -> OutboundResponse:
        size = int(note.text.split("\n")[1])
        path = await tree.prove_consistency(known, size)
        proof = "".join(f"{b64encode(one).decode()}\n" for one in path)
        request = OutboundRequest(
            "POST",
            self._url,
            headers={"Content-Type": "text/plain; charset=utf-8", "User-Agent": "token-vault"},
            body=f"old {known}\n{proof}\n{note}".encode(),
            timeout=_TIMEOUT,
            max_bytes=_ANSWER_LIMIT,
            policy=self._policy,
            peer="witness",
        )
        try:
            return await self._http.send(request)
        except HttpError as error:
            raise DestinationFailed(f"{self.name} didn't answer: {error.reason}") from error

    def _size_of(self, answer: OutboundResponse) -> int:
        text = answer.body.strip()
        if not text.isdigit() or len(text) > 18:
            raise DestinationFailed(f"{self.name} refused without reporting which tree it knows")
        return int(text)
