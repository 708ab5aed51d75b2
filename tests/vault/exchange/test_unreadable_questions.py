"""Questions and answers that the vault refuses to bind or read, each next to one that differs only in the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.rooms.vault_room import Room
from tests.vault.exchange.test_requests import REQUEST, ask
from tests.vault.exchange.test_standing_approvals import binding_of, give
from vault.approvals import approvals, client_notices, standing_approvals
from vault.approvals.client_notices import DueNotice, IssuedTokens
from vault.envelope import Context, seal
from vault.records import TENANT
from vault.refusals import ScopeRefused, StorageUnavailable


def seal_content(room: Room, purpose: str, record_id: str, content: bytes) -> bytes:
    """What the vault would have stored for this content."""
    context = Context(purpose=purpose, tenant=TENANT, record_id=record_id)
    return seal(content, key=room.vault.keys.subkey("approvals"), key_id="approvals", context=context)


async def write(room: Room, table: str, record_id: str, payload: bytes) -> None:
    statement = f"update {table} set payload = :payload where id = :id"
    async with room.database.transaction() as transaction:
        await transaction.execute(statement, {"payload": payload, "id": record_id})


async def test_a_stored_question_is_an_object(room: Room) -> None:
    keys = room.vault.keys
    asked, _ = await ask(room)
    await write(room, "approvals", asked.id, seal_content(room, "approval", asked.id, b"{}"))
    assert await approvals.get(room.database, keys, asked.id)
    await write(room, "approvals", asked.id, seal_content(room, "approval", asked.id, b"[]"))
    with pytest.raises(StorageUnavailable, match="a stored approval can't be read"):
        await approvals.get(room.database, keys, asked.id)


async def test_a_stored_standing_approval_is_an_object_with_a_target(room: Room) -> None:
    keys, user_id = room.vault.keys, room.alice.user.id
    standing_id = await give(room, await room.connect())
    for content, is_readable in ((b'{"target": {}}', True), (b"[]", False), (b'{"target": []}', False)):
        payload = seal_content(room, "standing_approval", standing_id, content)
        await write(room, "standing_approvals", standing_id, payload)
        reading = standing_approvals.get(room.database, keys, standing_id, user_id=user_id)
        if is_readable:
            assert await reading
            continue
        with pytest.raises(StorageUnavailable, match="a stored approval can't be read"):
            await reading


async def test_a_stored_answer_is_an_object(room: Room) -> None:
    keys = room.vault.keys
    kept = DueNotice("one", 1, seal_content(room, "backchannel-answer", "one", b'{"grant": "g"}'))
    assert client_notices.issued_before(kept, keys) == IssuedTokens("g", None, None)
    with pytest.raises(StorageUnavailable, match="a stored answer can't be read"):
        client_notices.issued_before(replace(kept, sealed=seal_content(room, "backchannel-answer", "one", b"[]")), keys)


async def test_what_has_no_canonical_form_is_not_asked_nor_allowed_in_advance(room: Room) -> None:
    connection = await room.connect()
    for number, is_bound in ((2**40, True), (2**60, False)):
        target, request = {"number": number}, replace(REQUEST, details=({"type": "payment", "n": number},))
        if is_bound:
            assert binding_of(room, connection, target).digest
            assert await ask(room, request=request)
            continue
        with pytest.raises(ScopeRefused, match="can't be approved in advance"):
            _ = binding_of(room, connection, target).digest
        with pytest.raises(ScopeRefused, match="can't be shown to the person"):
            await ask(room, request=request)
