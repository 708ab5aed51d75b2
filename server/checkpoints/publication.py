"""Sign checkpoints of the activity when they are due, and deliver each to every destination in the settings.

The order: the witness cosigns, the authority stamps the cosigned checkpoint, and the copies keep both. A failing
destination doesn't delay the others; it gets the newest checkpoint at the next attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from server.checkpoints.copies import BucketCopies, Copies, DestinationFailed, FolderCopies
from server.checkpoints.time_stamps import TimeStampAuthority
from server.checkpoints.witnesses import Witness, WitnessAhead, WitnessContradicts
from server.deployment import Deployment
from vault.audit import deliveries
from vault.audit.deliveries import Delivery
from vault.audit.log import Log, SignedCheckpoint, begin_log, issue, keep_note, newest_note
from vault.audit.notes import Verifier
from vault.audit.proof import ChainBroken
from vault.audit.tree import Tree, count_leaves

TURN: Final = 240  # seconds that one process may take
logger = logging.getLogger("token_vault.activity")


@dataclass(frozen=True, slots=True)
class Destinations:
    """The destinations in the settings."""

    witness: Witness | None
    authority: TimeStampAuthority | None
    copies: tuple[Copies, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all destinations, in the order in which they get a checkpoint."""
        every = (self.witness, self.authority, *self.copies)
        return tuple(one.name for one in every if one is not None)


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The delivery of a checkpoint to one destination; `failure` is None if it was delivered."""

    destination: str
    failure: str | None


def destinations_of(deployment: Deployment) -> Destinations:
    """The destinations from the settings."""
    settings, http = deployment.settings.checkpoints, deployment.http
    copies: list[Copies] = []
    if settings.directory is not None:
        copies.append(FolderCopies(settings.directory))
    if settings.bucket is not None:
        copies.append(BucketCopies(settings.bucket, settings))
    witness, authority = None, None
    if settings.witness_url is not None:
        witness = Witness(settings.witness_url, Verifier.parse(settings.witness_key), http)
    if settings.timestamp_url is not None and settings.timestamp_ca_file is not None:
        authority = TimeStampAuthority(
            settings.timestamp_url, http, ca_file=settings.timestamp_ca_file, policy=settings.timestamp_policy
        )
    return Destinations(witness, authority, tuple(copies))


async def current_log(deployment: Deployment) -> Log:
    """The log of this vault's activity; the first call creates it."""
    host = urlsplit(deployment.public_url).hostname or "token-vault"
    return await begin_log(deployment.database, place=f"{host}/activity", now=deployment.now())


async def publish(
    deployment: Deployment, *, at_once: bool = False
) -> tuple[SignedCheckpoint | None, tuple[DeliveryResult, ...]]:
    """Sign a checkpoint if one is due or `at_once`, and deliver the newest one to destinations that lack it.

    Raises ChainBroken, in which case nothing was signed.
    """
    database, now = deployment.database, deployment.now()
    log = await current_log(deployment)
    last = await newest_note(database, log)
    is_due = at_once or last is None or last.created_at + deployment.settings.checkpoints.every <= now
    issued = await issue(database, log, now=now) if is_due else last
    if issued is None:
        return None, ()
    to = destinations_of(deployment)
    known = await deliveries.list_deliveries(database)
    if all(_is_there(known, name, issued) for name in to.names):
        return issued, tuple(DeliveryResult(name, None) for name in to.names)
    turn = await deliveries.take_turn(database, now=now, seconds=TURN)
    if turn is None:
        why = "another process is sending checkpoints: try again"
        return issued, tuple(DeliveryResult(one, None if _is_there(known, one, issued) else why) for one in to.names)
    try:  # read again, since another process may have sent a later one in the meantime
        issued = await newest_note(database, log) or issued
        return await _deliver(deployment, log, issued, to, await deliveries.list_deliveries(database))
    finally:
        await deliveries.end_turn(database, turn)


async def _deliver(
    deployment: Deployment, log: Log, issued: SignedCheckpoint, to: Destinations, known: Mapping[str, Delivery]
) -> tuple[SignedCheckpoint, tuple[DeliveryResult, ...]]:
    results: list[DeliveryResult] = []
    tree = Tree(deployment.database, log.base, await count_leaves(deployment.database))
    before = issued
    if to.witness is not None and not _is_there(known, to.witness.name, issued):
        issued, failure = await _cosign(to.witness, issued, tree)
        results.append(DeliveryResult(to.witness.name, failure))
    if to.authority is not None and (issued.stamp is None or issued.note != before.note):
        issued, failure = await _stamp(to.authority, issued)
        results.append(DeliveryResult(to.authority.name, failure))
    if issued != before:
        await keep_note(deployment.database, issued)
    is_stamped = issued.stamp != before.stamp  # an existing copy then gets the time stamp that it lacks
    results += [await _copy(one, issued) for one in to.copies if is_stamped or not _is_there(known, one.name, issued)]
    for one in results:
        await deliveries.note_delivery(
            deployment.database, one.destination, issued.head, now=deployment.now(), failure=one.failure
        )
        if one.failure is not None:
            facts = {"destination": one.destination, "detail": one.failure}
            logger.warning("a checkpoint of the activity wasn't delivered", extra=facts)
    done = {one.destination for one in results}
    return issued, (*(DeliveryResult(name, None) for name in to.names if name not in done), *results)


def _is_there(known: Mapping[str, Delivery], name: str, issued: SignedCheckpoint) -> bool:
    return name in known and known[name].has(issued.head)


async def _cosign(witness: Witness, issued: SignedCheckpoint, tree: Tree) -> tuple[SignedCheckpoint, str | None]:
    try:
        return await witness.cosign(issued, tree), None
    except DestinationFailed as error:
        return issued, str(error)
    except WitnessAhead as error:
        return issued, f"it has seen {error.size} events: run token-vault activity verify"
    except WitnessContradicts as error:
        return issued, f"it has seen a different history of {error.size} events: run token-vault activity verify"


async def _stamp(authority: TimeStampAuthority, issued: SignedCheckpoint) -> tuple[SignedCheckpoint, str | None]:
    try:
        return replace(issued, stamp=await authority.stamp(str(issued.note).encode())), None
    except DestinationFailed as error:
        return issued, str(error)


async def _copy(copies: Copies, issued: SignedCheckpoint) -> DeliveryResult:
    try:
        await copies.keep(issued)
    except DestinationFailed as error:
        return DeliveryResult(copies.name, str(error))
    return DeliveryResult(copies.name, None)


async def check_destinations(deployment: Deployment) -> list[tuple[str, bool, str]]:
    """Test each destination without a checkpoint; returns its name, whether it works, and a sentence."""
    to = destinations_of(deployment)
    found: list[tuple[str, bool, str]] = []
    log = await current_log(deployment)
    if to.witness is not None:
        last = await newest_note(deployment.database, log)
        tree = Tree(deployment.database, log.base, await count_leaves(deployment.database))
        if last is None:
            found.append((to.witness.name, True, "not asked: there is no checkpoint yet"))
        else:
            _, failure = await _cosign(to.witness, last, tree)
            found.append((to.witness.name, failure is None, failure or "cosigns"))
    if to.authority is not None:
        try:
            await to.authority.stamp(b"token-vault activity check")
            found.append((to.authority.name, True, "stamps, and its certificate leads to timestamp_ca_file"))
        except DestinationFailed as error:
            found.append((to.authority.name, False, str(error)))
    for one in to.copies:
        try:
            found.append((one.name, True, await one.check()))
        except DestinationFailed as error:
            found.append((one.name, False, str(error)))
    return found


async def publish_due(deployment: Deployment) -> None:
    """Publish checkpoints, as a step of the upkeep."""
    try:
        await publish(deployment)
    except ChainBroken as broken:  # nothing is signed until someone has checked the activity
        logger.error("the activity does not fit its chain", extra={"code": broken.code, "detail": broken.description})  # noqa: TRY400
