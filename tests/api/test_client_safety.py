"""What a program's users could get by the Python client that isn't theirs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.support.rooms.admin_room import AdminRoom

sys.path.insert(0, str(Path(__file__).parents[2] / "clients/python"))

from token_vault_client.admin import AdminClient


@pytest.mark.parametrize("name", ["..", ".", ""])
async def test_the_id_of_one_thing_never_becomes_the_path_of_another(room: AdminRoom, name: str) -> None:
    account = await room.service_account()

    def administer() -> None:
        with AdminClient(room.room.url, client_id=account.client.id, client_secret=account.secret or "") as admin:
            group = admin.create_group({"name": f"Sales {len(name)}"})["id"]
            person = admin.add_person({"name": f"kept{len(name)}"})["person"]["id"]
            with pytest.raises(ValueError, match="ID"):
                admin.remove_group_member(group, name)
            with pytest.raises(ValueError, match="ID"):
                admin.disconnect(person, name)
            assert admin.get_group(group)["id"] == group
            admin.add_group_member(group, person)
            admin.remove_group_member(group, person)  # the twin

    await asyncio.to_thread(administer)
