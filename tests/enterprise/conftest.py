"""One company for all tests of a file."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator

import pytest

from tests.support.rooms.company_room import CompanyRoom, running_company


@pytest.fixture(scope="module")
async def shared_company(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[CompanyRoom]:
    async with running_company(tmp_path_factory.mktemp("company")) as company:
        yield company


@pytest.fixture
def company(shared_company: CompanyRoom) -> CompanyRoom:
    shared_company.pass_time(120)  # past all pauses, into a new window of starts per address
    shared_company.allow("linear")
    directory = shared_company.simulator.sandbox.directory
    directory.renews_id_tokens, directory.prefix = True, secrets.token_hex(4)  # people whom the vault doesn't know yet
    directory.takes_refresh_tokens = False
    return shared_company
