"""What a program's users could get by the Python client that isn't theirs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import httpx2
import pytest

from tests.support.rooms.admin_room import AdminRoom

sys.path.insert(0, str(Path(__file__).parents[2] / "clients/python"))

from token_vault_client import Vault, VaultRefused
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


@pytest.mark.parametrize("method", ["exchange", "administration"])
async def test_no_redirect_takes_a_token_elsewhere(method: str) -> None:
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.url.host)
        return httpx2.Response(307, headers={"location": "https://thief.example/"})

    with httpx2.Client(transport=httpx2.MockTransport(answer), follow_redirects=True) as http:
        with pytest.raises(VaultRefused):
            if method == "exchange":
                Vault("https://vault.example", client_id="c", http=http).token("slack", subject="s")
            else:
                AdminClient("https://vault.example", token=lambda: "t", http=http).add_person({"name": "ada"})
    assert seen == ["vault.example"]
