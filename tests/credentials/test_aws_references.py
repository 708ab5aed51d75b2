"""An access key whose parts are kept in 1Password, Bitwarden, and OpenBao: read for each call that it signs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from providers.definitions.catalog import load_catalog
from providers.definitions.token_facts import Expiry
from server.connecting.credentials import Entry, _ends_in
from server.errors import status_of
from tests.credentials.test_aws import KEY_ID, READ, SECRET, AwsRoom, aws_room
from tests.support.doubles.scripted_server import scripted_server
from tests.support.doubles.secret_services import bws_script, command, op_script, openbao, openbao_settings
from tests.support.rooms.portal_room import accounts_of

BITWARDEN = "382580ab-1368-4e85-bfa3-b02e01400c9f"
TOKEN = "FwoGZXIvYXdzE" * 8
DAY = 86400
REFERENCES = {
    "op": "op://Vault/aws/secret",
    "bws": f"bws://{BITWARDEN}",
    "bao": "bao://secret/people/aws#secret",
}
KEPT: dict[str, dict[str, str]] = {"people/aws": {"id": KEY_ID, "secret": SECRET, "token": TOKEN}}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 1Password and Bitwarden programs, in the first folder of PATH."""
    folder = tmp_path_factory.mktemp("programs")
    command(folder, "op", op_script(REFERENCES["op"], SECRET))
    return command(folder, "bws", bws_script(BITWARDEN, SECRET))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def room(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> AsyncGenerator[AwsRoom]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", f"{programs}:/usr/bin:/bin")
        async with scripted_server(openbao(KEPT)) as bao:
            beginnings = ("op://Vault/", f"bws://{BITWARDEN}", "bao://secret/people/")
            tokens = {"onepassword_token": "ops_canary", "bitwarden_token": "0.canary"}
            secrets = openbao_settings(bao.url, *beginnings) | tokens
            async with aws_room(tmp_path_factory.mktemp("aws"), secrets=secrets) as opened:
                yield opened


@pytest.mark.parametrize("source", REFERENCES)
async def test_a_secret_key_is_read_at_its_source_for_each_call(room: AwsRoom, source: str) -> None:
    user = await room.keys.user()
    connection = await room.connect_account(user, secret_access_key=REFERENCES[source])
    assert connection.account == f"arn:aws:iam::123456789012:user/{KEY_ID}"
    handle = await room.keys.allow_agent(user, connection, READ)
    for is_known in (True, False, True):
        room.aws.keys = {KEY_ID: (SECRET if is_known else "another" * 6, "")}
        answer = await handle.call("GET", "/bucket?list-type=2", api="s3")
        assert (answer.status_code == 200) is is_known, answer.text
        assert SECRET not in answer.text
    [held] = await accounts_of(room.keys, user)
    assert held.state.value == "active"


@pytest.mark.parametrize("is_replaced", [True, False])
async def test_an_access_key_that_was_replaced_at_its_source_signs(room: AwsRoom, *, is_replaced: bool) -> None:
    room.aws.keys = {KEY_ID: (SECRET, TOKEN)}
    user = await room.keys.user()
    entered = {"secret_access_key": REFERENCES["bao"], "session_token": "bao://secret/people/aws#token"}
    connection = await room.connect_account(user, **entered)
    handle = await room.keys.allow_agent(user, connection, READ)
    assert (await handle.call("GET", "/bucket?list-type=2", api="s3")).status_code == 200
    newer = "newer" * 8
    room.aws.keys = {KEY_ID: (newer, TOKEN)}
    if is_replaced:
        KEPT["people/aws"]["secret"] = newer
    try:
        answer = await handle.call("GET", "/bucket?list-type=2", api="s3")
    finally:
        KEPT["people/aws"]["secret"] = SECRET
    assert (answer.status_code == 200) is is_replaced, answer.text


@pytest.mark.parametrize(
    ("secret", "named", "expected"),
    [(SECRET, None, 90), (SECRET, 20, 20), (REFERENCES["bao"], None, None), (REFERENCES["bao"], 20, 20)],
)
async def test_only_a_key_that_the_vault_holds_ends_when_aws_recommends_replacing_it(
    room: AwsRoom, secret: str, named: int | None, expected: int | None
) -> None:
    room.aws.keys = {KEY_ID: (SECRET, "")}
    now = room.keys.deployment.now()
    days = {} if named is None else {"ends": datetime.fromtimestamp(now + named * DAY, UTC).date().isoformat()}
    connection = await room.connect_account(await room.keys.user(), secret_access_key=secret, **days)
    if expected is None:
        assert connection.ends_at is None
    else:
        assert connection.ends_at is not None
        assert abs(connection.ends_at - now - expected * DAY) <= DAY
        assert connection.status(connection.ends_at - DAY) == "expiring"
        assert connection.status(connection.ends_at) == ("expiring" if named is None else "needs_reauth")


@pytest.mark.parametrize(
    ("secret", "token", "expected"),
    [
        (SECRET, TOKEN, 90),
        (SECRET, "bao://secret/people/aws#token", 90),  # the vault holds what has to be replaced
        (REFERENCES["bao"], TOKEN, None),
        (REFERENCES["bao"], "bao://secret/people/aws#token", None),
    ],
)
async def test_a_key_has_its_usual_end_if_only_its_session_token_is_kept_elsewhere(
    room: AwsRoom, secret: str, token: str, expected: int | None
) -> None:
    room.aws.keys = {KEY_ID: (SECRET, TOKEN)}
    now = room.keys.deployment.now()
    entered = {"secret_access_key": secret, "session_token": token}
    connection = await room.connect_account(await room.keys.user(), **entered)
    if expected is None:
        assert connection.ends_at is None
    else:
        assert connection.ends_at is not None
        assert abs(connection.ends_at - now - expected * DAY) <= DAY


@pytest.mark.parametrize(
    ("is_elsewhere", "named", "expected"), [(False, None, 30), (False, 20, 20), (True, None, None), (True, 20, 20)]
)
def test_only_a_key_that_the_vault_holds_ends_when_each_key_of_its_service_does(
    is_elsewhere: bool, named: int | None, expected: int | None
) -> None:
    """Unlike `rotate_days`, `expires.grant` is no advice, but the key at its source may be another one by then."""
    aws = load_catalog().provider("aws")
    assert aws.credential is not None
    never_due = aws.credential.model_copy(update={"rotate_days": None})
    provider = aws.model_copy(update={"credential": never_due, "expires": Expiry(grant=30 * DAY)})
    entry = Entry({}, ends_at=None if named is None else named * DAY)
    ends_in = _ends_in(provider, entry, last=None, is_elsewhere=is_elsewhere, now=0)
    assert ends_in == (None if expected is None else expected * DAY)


@pytest.mark.parametrize("is_allowed", [True, False])
async def test_a_reference_that_is_not_allowed_connects_no_key(room: AwsRoom, *, is_allowed: bool) -> None:
    room.aws.keys = {KEY_ID: (SECRET, "")}
    user = await room.keys.user()
    person = await room.keys.signed_in(user)
    reference = REFERENCES["op"] if is_allowed else "op://Private/aws/secret"
    values = {"access_key_id": KEY_ID, "secret_access_key": reference, "region": "eu-west-1"}
    answer = await room.keys.enter(person, await room.keys.form(person, "aws"), **values)
    assert (answer.status_code == status_of("invalid_request"), len(await accounts_of(room.keys, user))) == (
        not is_allowed,
        int(is_allowed),
    )
