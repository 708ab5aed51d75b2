"""Compare the activity with the checkpoints outside this host, which someone who steals the database and key can't
change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from server.checkpoints.copies import Copies, DestinationFailed
from server.checkpoints.publication import Destinations
from server.checkpoints.time_stamps import TimeStampAuthority
from server.checkpoints.witnesses import Witness, WitnessAhead, WitnessContradicts
from vault.audit.deliveries import Delivery
from vault.audit.log import (
    Log,
    Restart,
    SignedCheckpoint,
    check_consistent,
    check_note,
    newest_note,
    restart_after,
    sign_head,
)
from vault.audit.notes import Note, NoteRefused, TreeHead
from vault.audit.proof import ChainBroken
from vault.audit.tree import Tree


@dataclass(frozen=True, slots=True)
class ConfirmedCheckpoint:
    """A checkpoint that the activity matches. `stamped_at` is the authority's time, in seconds.

    `restart` removed some of its events.
    """

    where: str
    events: int
    stamped_at: int | None
    restart: Restart | None = None


@dataclass(slots=True)
class Comparison:
    """The result: `confirmed` checkpoints, those from `before_restore` that can't be compared, and `problems`.

    `unstamped`: sentences about checkpoints without a time stamp.
    """

    confirmed: list[ConfirmedCheckpoint] = field(default_factory=list[ConfirmedCheckpoint])
    before_restore: list[ConfirmedCheckpoint] = field(default_factory=list[ConfirmedCheckpoint])
    problems: list[str] = field(default_factory=list[str])
    unstamped: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class KeptCheckpoint:
    """A checkpoint as stored."""

    where: str
    text: str
    stamp: bytes | None
    size: int | None = None  # the size in its name


async def compare(
    tree: Tree,
    logs: Sequence[Log],
    to: Destinations,
    *,
    grow: Callable[[], Awaitable[Tree]],
    files: Sequence[Path] = (),
    delivered: dict[str, Delivery],
    now: int,
) -> Comparison:
    """Compare the newest checkpoint of each destination, and these files. Raises ChainBroken, naming the first event.

    If several checkpoints were kept, the first wrong event lies between the last one that matches and the first that
    doesn't. `grow` adds events appended since the tree was made, which a running vault may have signed.
    """
    found = Comparison()
    # a restore ended the log, and the next log hasn't been started
    is_over = await restart_after(tree.reader, logs[-1]) is not None
    last = None if to.witness is None or is_over else await newest_note(tree.reader, logs[-1])
    signed = [0 if last is None else last.head.size, *await _list_sizes(to.copies, logs[-1])]
    if max(signed) > tree.size and not is_over:
        tree = await grow()
    for path in files:
        kept = KeptCheckpoint(str(path), path.read_text(encoding="utf-8", errors="replace"), _stamp_beside(path))
        await _confirm(found, kept, tree, logs, authority=to.authority)
    for copies in to.copies:
        try:
            for log in logs:
                await _compare_copies(found, copies, tree, logs, log, authority=to.authority)
            await _check_missing(found, copies, logs, delivered.get(copies.name))
        except DestinationFailed as error:
            found.problems.append(f"{copies.name}: {error}")
    if to.witness is not None and is_over:
        found.problems.append(
            f"{to.witness.name} knows no log from after the restore: run token-vault activity checkpoint"
        )
    elif to.witness is not None:
        await _ask_witness(found, to.witness, tree, logs[-1], last, now=now, grow=grow)
    return found


async def _ask_witness(
    found: Comparison,
    witness: Witness,
    tree: Tree,
    log: Log,
    last: SignedCheckpoint | None,
    *,
    now: int,
    grow: Callable[[], Awaitable[Tree]],
) -> None:
    """Have the last checkpoint cosigned, or the tree itself if that checkpoint is gone or older than the witness's
    state."""
    try:
        events = await _ask(witness, tree, log, last, now=now, grow=grow)
    except DestinationFailed as error:
        found.problems.append(str(error))
    except WitnessAhead as error:
        why = f"{witness.name} has seen events up to {tree.base + error.size}"
        raise ChainBroken(tree.base + tree.size + 1, why) from error
    except WitnessContradicts as error:
        why = f"{witness.name} has seen other events up to {tree.base + error.size}"
        raise ChainBroken(tree.base + 1, why) from error
    else:
        if events:
            found.confirmed.append(ConfirmedCheckpoint(witness.name, tree.base + events, None))


async def _ask(
    witness: Witness,
    tree: Tree,
    log: Log,
    last: SignedCheckpoint | None,
    *,
    now: int,
    grow: Callable[[], Awaitable[Tree]],
) -> int:
    """The number of leaves that the witness confirmed."""
    if last is not None:
        await check_consistent(tree, last.head)
        try:
            await witness.cosign(last, tree)
        except WitnessAhead as error:
            if error.size > tree.size:  # a running vault may have appended and delivered events since
                tree = await grow()
        else:
            return last.head.size
    if not tree.size:
        return 0
    await witness.cosign(await sign_head(tree, log, now=now), tree)
    return tree.size


async def _list_sizes(every: Sequence[Copies], log: Log) -> list[int]:
    found: list[int] = []
    for copies in every:
        with suppress(DestinationFailed):  # reported when it is compared
            found += await copies.list_sizes(log.origin)
    return found


async def _compare_copies(
    found: Comparison,
    copies: Copies,
    tree: Tree,
    logs: Sequence[Log],
    log: Log,
    *,
    authority: TimeStampAuthority | None,
) -> None:
    sizes = await copies.list_sizes(log.origin)
    if not sizes:
        return

    async def load(size: int) -> KeptCheckpoint:
        text, stamp = await copies.load(log.origin, size)
        return KeptCheckpoint(copies.name, text, stamp, size)

    try:
        await _confirm(found, await load(sizes[-1]), tree, logs, authority=authority)
    except ChainBroken as broken:
        good, bad = 0, sizes[-1]
        candidates = [size for size in sizes if size <= tree.size]
        while candidates:
            middle = len(candidates) // 2
            try:
                signed = check_note(Note.parse((await load(candidates[middle])).text), log)
            except NoteRefused as error:
                found.problems.append(f"{copies.name}: a checkpoint can't be used: {error.description}")
                candidates = [*candidates[:middle], *candidates[middle + 1 :]]
                continue
            try:
                await check_consistent(tree, signed)
                good, candidates = signed.size, candidates[middle + 1 :]
            except ChainBroken:
                bad, candidates = signed.size, candidates[:middle]
        if good == tree.size:
            raise
        first, last = tree.base + good + 1, tree.base + bad
        why = f"{broken.reason}; the checkpoint of events up to {tree.base + good} fits" if good else broken.reason
        if bad <= tree.size and first < last:
            why = f"one of the events up to {last} was changed, removed, or inserted: {why}"
        raise ChainBroken(
            min(first, tree.base + tree.size + 1), f"{why} ({copies.name})", after=broken.after
        ) from broken


async def _confirm(
    found: Comparison, kept: KeptCheckpoint, tree: Tree, logs: Sequence[Log], *, authority: TimeStampAuthority | None
) -> None:
    try:
        note = Note.parse(kept.text)
        origin = TreeHead.parse(note.text).origin
        log = next((one for one in logs if one.origin == origin), logs[-1])
        signed = _check_name(check_note(note, log), kept)
    except NoteRefused as error:
        found.problems.append(f"{kept.where}: a checkpoint can't be used: {error.description}")
        return
    stamped_at = None
    if authority is not None and kept.stamp is not None:
        try:
            stamped_at = authority.stamped_at(kept.text.encode(), kept.stamp)
        except DestinationFailed as error:
            found.problems.append(f"{kept.where}: {error}")
    confirmed = ConfirmedCheckpoint(kept.where, tree.base + signed.size, stamped_at)
    if authority is not None and kept.stamp is None:
        found.unstamped.append(f"The checkpoint of {confirmed.events} events in {kept.where} has no time stamp.")
    at = logs.index(log)
    restart = await restart_after(tree.reader, log, later=logs[at + 1 :])
    if restart is None and at < len(logs) - 1:
        restart = Restart(0, 0, "", 0)  # the event that ended it was pruned
    if restart is not None and confirmed.events > restart.known:
        found.before_restore.append(replace(confirmed, restart=restart))
        return
    await check_consistent(tree, signed)
    found.confirmed.append(confirmed)


def _check_name(signed: TreeHead, kept: KeptCheckpoint) -> TreeHead:
    if kept.size not in {None, signed.size}:
        raise NoteRefused(f"its name says {kept.size} events, but it covers {signed.size}")
    return signed


async def _check_missing(found: Comparison, copies: Copies, logs: Sequence[Log], delivery: Delivery | None) -> None:
    known = {log.origin for log in logs}
    for place in sorted({origin.rpartition("/")[0] for origin in known}):
        for origin in await copies.list_origins(place):
            if origin not in known:
                found.problems.append(
                    f"{copies.name}: it has checkpoints of a log that this vault has no key for: {origin}"
                )
    for origin in sorted(known):
        if replaced := await copies.list_replaced(origin):
            found.problems.append(f"{copies.name}: {len(replaced)} files were deleted or overwritten: {replaced[0]}")
    if delivery is None or delivery.delivered_at is None:
        return
    there = await copies.list_sizes(delivery.origin)
    if not there:
        found.problems.append(f"{copies.name}: the checkpoints that were delivered there are gone")
    elif there[-1] < delivery.size:
        found.problems.append(f"{copies.name}: the checkpoint of {delivery.size} events that was delivered is gone")


def _stamp_beside(path: Path) -> bytes | None:
    stamp = path.with_suffix(".tsr")
    return stamp.read_bytes() if stamp.exists() else None
