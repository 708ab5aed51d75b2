"""Proofs that an event is in the signed activity (C2SP tlog-proof), which anyone can check without the vault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server.checkpoints.publication import current_log
from server.deployment import Deployment
from server.errors import PersonRefused
from vault.audit.log import Log, LogKey, SignedCheckpoint, event_key, find_log, issue, load_logs, newest_note
from vault.audit.merkle import leaf_hash, root_of_inclusion
from vault.audit.notes import write_proof
from vault.audit.proof import ChainBroken, load_end
from vault.audit.tree import Tree, count_leaves, list_leaves

_UPKEEP: Final = 60  # seconds until upkeep has signed a checkpoint that is due


class ProofRefused(PersonRefused):
    """No proof can be made; `code` says why. `values` fill in the placeholders of a page's text.

    `retry_after`: seconds until there should be one; None if it never comes.
    """

    def __init__(
        self, code: str, description: str, *, kind: str, retry_after: int | None = None, **values: object
    ) -> None:
        super().__init__(description, kind=kind)
        self.code = code
        self.retry_after = retry_after
        self.values = {name: str(value) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class EventProof:
    """A proof as text: event `sequence` is leaf `index` in the log's signed checkpoint of `events` events."""

    text: str
    sequence: int
    index: int
    events: int
    origin: str


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key of this vault's logs, and whether it signs now."""

    key: LogKey
    origin: str
    signs: bool


async def prove_event(deployment: Deployment, sequence: int) -> EventProof:
    """The proof of an event, in the newest checkpoint. Raises ProofRefused, ChainBroken.

    It only reads: it begins no log and signs no checkpoint. Otherwise readers could make the vault send a checkpoint to
    its destinations every minute, where none can be deleted. Any process of the vault can do it.
    """
    database = deployment.database
    log = await find_log(database)
    return await _prove(deployment, log, None if log is None else await newest_note(database, log), sequence)


async def sign_and_prove(deployment: Deployment, sequence: int) -> EventProof:
    """The same, but first signs a checkpoint if the newest lacks the event. Raises ProofRefused, ChainBroken."""
    database = deployment.database
    log = await current_log(deployment)
    issued = await newest_note(database, log)
    if sequence > log.base + (0 if issued is None else issued.head.size):
        issued = await issue(database, log, now=deployment.now())
    return await _prove(deployment, log, issued, sequence)


async def newest_checkpoint(deployment: Deployment) -> SignedCheckpoint:
    """The newest signed checkpoint. It only reads. Raises ProofRefused, ChainBroken."""
    log = await find_log(deployment.database)
    issued = None if log is None else await newest_note(deployment.database, log)
    if issued is None:
        raise ProofRefused("no_checkpoint", "there is no signed checkpoint yet", kind="not_found", retry_after=_UPKEEP)
    return issued


async def list_keys(deployment: Deployment) -> list[ListedKey]:
    """The keys of this vault's logs, the newest last. It only reads. Raises ChainBroken."""
    database, now = deployment.database, deployment.now()
    current = await find_log(database)
    logs = await load_logs(database, event_key(database))
    return [ListedKey(one, log.origin, signs=log == current and one.signs(now)) for log in logs for one in log.keys]


async def _prove(deployment: Deployment, log: Log | None, issued: SignedCheckpoint | None, sequence: int) -> EventProof:
    database = deployment.database
    if log is not None and sequence <= log.base:
        why = f"event {sequence} is older than the tree, which begins at event {log.base + 1}"
        raise ProofRefused("event_before_tree", why, kind="not_found", number=sequence, first=log.base + 1)
    if log is None or issued is None or sequence > log.base + issued.head.size:
        raise await _not_covered(deployment, issued, sequence)
    found = await list_leaves(database, event_key(database), after=sequence - 1, limit=1)
    if not found or found[0][0].sequence != sequence:
        why = f"event {sequence} was pruned: its hash is still in the tree, but its content isn't in the vault"
        raise ProofRefused("event_pruned", why, kind="gone", number=sequence)
    data, index, size = found[0][1], sequence - log.base - 1, issued.head.size
    path = await Tree(database, log.base, await count_leaves(database)).prove(index, size)
    if root_of_inclusion(leaf_hash(data), index, size, path) != issued.head.root:
        raise ChainBroken(sequence, "it doesn't match the signed checkpoint")
    text = write_proof(index=index, path=path, note=issued.note, extra=data)
    return EventProof(text, sequence, index, size, log.origin)


async def _not_covered(deployment: Deployment, issued: SignedCheckpoint | None, sequence: int) -> ProofRefused:
    if sequence > (await load_end(deployment.database)).link.sequence:
        return ProofRefused("no_event", f"there is no event {sequence} yet", kind="not_found", number=sequence)
    due = 0 if issued is None else issued.created_at + deployment.settings.checkpoints.every - deployment.now()
    wait = max(due, 0) + _UPKEEP
    minutes = -(-wait // 60)
    why = f"event {sequence} isn't in a signed checkpoint yet: try again in {minutes} min"
    return ProofRefused("event_unsigned", why, kind="conflict", retry_after=wait, number=sequence, minutes=minutes)
