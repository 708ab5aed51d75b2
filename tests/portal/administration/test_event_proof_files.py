"""The proof of an event as a file on the administration's activity page: who gets it, and why it can be missing."""

from __future__ import annotations

import html
import re
from pathlib import Path

import httpx2
import pytest

from server.administration import people
from server.checkpoints.publication import publish
from server.http import page_texts
from tests.cli.activity.test_activity_proof import check_proof
from tests.cli.activity.test_event_proofs import happen
from tests.support.rooms.admin_room import AdminRoom
from vault.audit import segments
from vault.records import DAY, Role

PAGE = "/administration/activity"


def is_missing(answer: httpx2.Response, why: str, status: int, **values: object) -> bool:
    """Whether the page says that there is no proof, and why."""
    told, said = html.unescape(answer.text), page_texts.english()
    sentence = said["no_proof"][why].format(**values)
    return answer.status_code == status and said["refused"]["no_proof_title"] in told and sentence in told


async def test_an_auditor_downloads_what_a_stranger_checks(admin: AdminRoom, tmp_path: Path) -> None:
    user = await admin.room.user()
    await people.set_role(admin.operator, user, Role.AUDITOR)
    auditor = await admin.room.signed_in(user)
    await happen(admin.deployment)
    await publish(admin.deployment, at_once=True)
    page = await auditor.open(PAGE)
    path, number = re.findall(r'<dt>Proof</dt><dd><a href="([^"]*)">(\d+)\.tlog-proof</a>', page.text)[0]
    answer = await auditor.open(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="{number}.tlog-proof"'
    assert answer.content == (await admin.call("GET", f"/activity/{number}/proof")).content
    file = tmp_path / "event.tlog-proof"
    file.write_bytes(answer.content)
    (key,) = (await admin.call("GET", "/activity/keys")).json()["items"]
    code, said = await check_proof(str(file), key["key"])
    assert code == 0, said
    assert f"Proved: event {number} of" in said


async def test_a_member_finds_no_proof_even_of_their_own_events(admin: AdminRoom) -> None:
    user = await admin.room.user()
    member = await admin.room.signed_in(user)
    await publish(admin.deployment, at_once=True)
    (own, *_) = await admin.room.events(user)
    assert "tlog-proof" not in (await member.open("/activity")).text
    assert (await member.open(f"{PAGE}/{own.sequence}/proof")).status_code == 403
    alice = await admin.room.signed_in("alice")
    assert f"{own.sequence}.tlog-proof" in (await alice.open(f"{PAGE}?person={user.id}")).text
    assert (await alice.open(f"{PAGE}/{own.sequence}/proof")).status_code == 200


async def test_a_page_says_why_there_is_no_proof(admin: AdminRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment, alice = admin.deployment, await admin.room.signed_in("alice")
    monkeypatch.setattr(segments, "SEGMENT", 3)
    await publish(deployment, at_once=True)
    last = await happen(deployment)
    assert is_missing(await alice.open(f"{PAGE}/{last}/proof"), "event_unsigned", 409, minutes=61)
    with page_texts.use_language("de"):
        assert page_texts.text("no_proof.event_unsigned", minutes="61").endswith("in 61 min noch einmal.")
    await publish(deployment, at_once=True)
    assert (await alice.open(f"{PAGE}/{last}/proof")).status_code == 200
    for other in ("999999", "0", "-1", "x", "1" * 30, "%F0%9F%91%8D"):
        assert is_missing(await alice.open(f"{PAGE}/{other}/proof"), "no_event", 404), other

    await segments.seal(deployment.database, now=deployment.now() + DAY)
    assert await segments.prune(deployment.database, retention_days=1, now=deployment.now() + 3 * DAY) == last
    assert is_missing(await alice.open(f"{PAGE}/{last}/proof"), "event_pruned", 410)
    await publish(deployment, at_once=True)
    assert (await alice.open(f"{PAGE}/{last + 1}/proof")).status_code == 200


async def test_an_event_older_than_the_tree_has_no_proof(admin: AdminRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment, alice = admin.deployment, await admin.room.signed_in("alice")
    monkeypatch.setattr(segments, "SEGMENT", 3)
    async with deployment.database.transaction() as transaction:  # as if the tree had never been begun
        for table in ("event_notes", "event_tiles"):
            await transaction.execute(f"delete from {table}")
        await transaction.execute("delete from keys.ring where purpose = :log", {"log": "activity-log"})
    last = await happen(deployment, 3)
    await segments.seal(deployment.database, now=deployment.now() + DAY)
    gone = await segments.prune(deployment.database, retention_days=1, now=deployment.now() + 3 * DAY)
    assert gone == last
    await publish(deployment)
    assert is_missing(await alice.open(f"{PAGE}/{gone}/proof"), "event_before_tree", 404, first=gone + 1)
    assert (await alice.open(f"{PAGE}/{gone + 1}/proof")).status_code == 200
