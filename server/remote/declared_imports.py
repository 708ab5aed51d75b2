"""Imported APIs in a declaration: an import waits for an admin unless the declaration says that it was reviewed.

`reviewed` is the digest of one import. A changed description has a different digest, so its import waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from providers.tools.imported_api import ImportChoice
from providers.tools.spec import ToolSpec
from server.administration.actor import Actor, ChangeRefused
from server.administration.declaration import DeclaredImportedApi
from server.administration.declarations.planned_changes import PlannedChange, Verb, differences_between
from server.live_providers import REFUSALS
from server.remote import imported_apis
from server.remote.described_apis import DescribedApi, content_of_description
from server.remote.imported_apis import ApiReview
from vault.mcp.imported_apis import ImportedApi, list_apis
from vault.registrations import EnteredRegistration


async def plan_imports(
    actor: Actor, wanted: Mapping[str, DeclaredImportedApi], *, prunes: bool, first: Actor | None = None
) -> AsyncIterator[PlannedChange]:
    """Plan the changes. Raises ChangeRefused for a declaration that can't be applied.

    `first` creates and updates imports if that comes before new rules are written: it also keeps the tools that the
    earlier rules name. APIs are removed after the rules are written, so only the new rules keep theirs.
    """
    saver = first or actor
    known = {one.name: one for one in await list_apis(actor.deployment.database)}
    for name, declared in wanted.items():
        if declared.document is None:
            place = f"imported_apis.{name}"
            raise ChangeRefused("import_refused", f"{place}: set document_file, or document", field=place)
        content = await content_of_description(_description_of(name, declared, declared.document))
        is_reviewed = declared.reviewed == imported_apis.import_digest(content)
        held = known.get(name)
        before, after = await asyncio.to_thread(_facts, held, content, declared, is_reviewed=is_reviewed)
        if differences := differences_between(before, after):
            verb: Verb = "create" if held is None else "update"
            choices = declared.tools if is_reviewed else None
            if is_reviewed:  # check that it could be turned on, before it is stored
                await asyncio.to_thread(_chosen_of, saver, name, held, content, declared.tools)
            yield PlannedChange(verb, "imported_api", name, differences, partial(_save, saver, name, content, choices))
    if prunes:
        for name in sorted(known.keys() - wanted.keys()):
            await asyncio.to_thread(imported_apis.check_removal, actor.deployment, known[name])
            yield PlannedChange("remove", "imported_api", name, (), partial(imported_apis.remove, actor, name))


def _description_of(name: str, declared: DeclaredImportedApi, document: str) -> DescribedApi:
    return DescribedApi(
        name, declared.kind, document, declared.title, declared.audience, declared.server, tuple(declared.only)
    )


def _facts(
    held: ImportedApi | None, content: str, declared: DeclaredImportedApi, *, is_reviewed: bool
) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """The import's digest, whether it waits, and the decision about each tool: as they are, and as declared."""
    base = held or ImportedApi(declared.title, None, 0, None)
    review = _review_of(held, content)
    if unknown := sorted(declared.tools.keys() - {one.name for one in review.tools}):
        description = f"imported_apis: the description makes no tool {unknown[0]}"
        raise ChangeRefused("import_refused", description, field="imported_apis")
    decided = imported_apis.decisions_of(base)
    is_new = content not in {base.reviewed, base.offered}
    before: dict[str, object] = {**decided}
    after: dict[str, object] = {"import": imported_apis.import_digest(content)}
    after["waits"] = not is_reviewed and base.reviewed != content
    if held is not None:
        before |= {"import": imported_apis.import_digest(held.whole), "waits": held.offered is not None}
    for one in review.tools:
        after[one.name] = decided.get(one.name)
        if is_reviewed:
            after[one.name] = declared.tools.get(one.name, one.choice)
        elif is_new and one.state in {"new", "changed"}:
            parts = [part.name for part in one.parts] if one.state == "changed" else []
            after[one.name] = f"to review: {', '.join([one.state, *parts])}"
    for name in review.gone:
        after[name] = None if is_reviewed else "to review: gone" if is_new else decided.get(name)
    return before, after


async def tools_after(actor: Actor, wanted: Mapping[str, DeclaredImportedApi]) -> Sequence[ToolSpec] | None:
    """Every tool that a rule can name once the declared imports are turned on; None if that adds and changes none.

    Raises ChangeRefused.
    """
    live, entered = actor.deployment.live, dict[str, EnteredRegistration]()
    known = {one.name: one for one in await list_apis(actor.deployment.database)}
    for name, declared in wanted.items():
        if declared.reviewed is None or declared.document is None:
            continue
        content = await content_of_description(_description_of(name, declared, declared.document))
        if declared.reviewed == imported_apis.import_digest(content):
            held = known.get(name)
            chosen = await asyncio.to_thread(_chosen_of, actor, name, held, content, declared.tools)
            if held is None or held.accepted != chosen:
                entered[name] = EnteredRegistration("", imported=chosen)
    if not entered:
        return None
    try:
        made = await live.make_with(entered)
    except REFUSALS as refusal:
        raise ChangeRefused("import_refused", str(refusal), field="imported_apis") from refusal
    return [*made.tools, *made.away, *live.current.away]


def _chosen_of(
    actor: Actor, name: str, held: ImportedApi | None, content: str, choices: Mapping[str, ImportChoice]
) -> str:
    """The import as the declaration turns it on. Raises ChangeRefused."""
    api = replace(held or ImportedApi(name, None, 0, None), offered=None, reviewed=content)
    proposed: dict[str, ImportChoice] = {one.name: one.choice for one in _review_of(held, content).tools}
    return imported_apis.chosen_of(actor.deployment, api, {**proposed, **choices})


def _review_of(held: ImportedApi | None, content: str) -> ApiReview:
    return imported_apis.review_of(replace(held or ImportedApi("", None, 0, None), offered=content))


async def _save(actor: Actor, name: str, content: str, choices: Mapping[str, ImportChoice] | None) -> None:
    await imported_apis.offer(actor, name, content)
    if choices is not None:
        await imported_apis.decide_reviewed(actor, name, imported_apis.import_digest(content), choices)
