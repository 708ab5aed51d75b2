"""What a mail server refuses, and whether sending the message again could help."""

from __future__ import annotations

import asyncio
from email.message import EmailMessage

import pytest

from server.notice_settings import MailSettings
from server.notices import senders
from server.notices.http_post import NotAccepted, Uncertain
from tests.support.doubles.mailbox import running_mailbox


async def deliver(port: int) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"] = "vault@vault.example", "alice@example.com"
    mail.set_content("An agent asks you.")
    settings = {"host": "127.0.0.1", "port": port, "security": "none", "username": "vault", "password": "a secret"}
    await asyncio.to_thread(senders._deliver, MailSettings.model_validate(settings), mail)


@pytest.mark.parametrize(
    ("replies", "recipient", "code", "is_final"),
    [
        ({"HELO": "554 not now"}, "", "unreachable", False),
        ({"AUTH": "535 wrong"}, "", "mail_sign_in", False),
        ({"AUTH": "454 later"}, "", "mail_sign_in", False),
        ({}, "550 nobody", "refused", True),
        ({}, "450 full", "refused", False),
        ({"MAIL": "554 spam"}, "", "refused", True),
        ({"MAIL": "451 later"}, "", "busy", False),
    ],
)
async def test_a_mail_that_is_refused_says_whether_another_try_helps(
    replies: dict[str, str], recipient: str, code: str, is_final: bool
) -> None:
    async with running_mailbox() as box:
        box.replies, box.refuses = replies, recipient
        with pytest.raises(NotAccepted) as refused:
            await deliver(box.port)
        assert (refused.value.code, refused.value.is_final) == (code, is_final)
        box.replies, box.refuses = {}, ""
        await deliver(box.port)  # the twin
        assert box.mails[-1]["To"] == "alice@example.com"


async def test_where_no_mail_server_listens_another_try_can_help() -> None:
    async with running_mailbox() as box:
        port = box.port
        await deliver(port)
    with pytest.raises(NotAccepted) as refused:
        await deliver(port)
    assert (refused.value.code, refused.value.is_final) == ("unreachable", False)


async def test_nobody_knows_what_became_of_a_mail_whose_server_hung_up() -> None:
    async with running_mailbox() as box:
        box.replies = {"MAIL": ""}
        with pytest.raises(Uncertain):
            await deliver(box.port)
