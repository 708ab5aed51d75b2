"""What a program's users could get by the Python client that isn't theirs: kept tokens, other people, other paths."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest

from tests.support.rooms.admin_room import AdminRoom
from tests.support.rooms.exchange_room import SECRET, ExchangeRoom

sys.path.insert(0, str(Path(__file__).parents[2] / "clients/python"))

from token_vault_client import AsyncVault, Vault, VaultRefused, acting_for
from token_vault_client.admin import AdminClient
from token_vault_client.tokens import KeptTokens, UpstreamToken, request_of

from vault import grants

SCOPES = ["channels:history"]


def _vault(place: ExchangeRoom, client_id: str) -> AsyncVault:
    return AsyncVault(place.url, client_id=client_id, client_secret=SECRET)


async def test_a_refusal_ends_what_was_kept(place: ExchangeRoom) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, "refused-later")
    other = await place.agent(caller, "refused-never")
    await place.slack(agent)
    await place.slack(other)
    async with _vault(place, caller.client.id) as vault:
        await vault.token("slack", SCOPES, subject=agent.token)
        kept = await vault.token("slack", SCOPES, subject=other.token)
        async with place.deployment.transaction() as transaction:
            await grants.revoke_grant(transaction, agent.principal.grant_id, reason="user", now=place.now())
        for is_fresh in (True, False):
            with pytest.raises(VaultRefused):
                await vault.token("slack", SCOPES, subject=agent.token, fresh=is_fresh)
        assert await vault.token("slack", SCOPES, subject=other.token) is kept  # the twin


async def test_an_empty_subject_is_nobody(place: ExchangeRoom) -> None:
    caller = await place.caller()
    agent = await place.agent(caller, "surrounding")
    await place.slack(agent)
    async with _vault(place, caller.client.id) as vault:
        with acting_for(agent.token):
            with pytest.raises(LookupError):
                await vault.token("slack", SCOPES, subject="")
            assert await vault.token("slack", SCOPES)  # the twin
        with acting_for(""), pytest.raises(LookupError):
            await vault.token("slack", SCOPES)


@pytest.mark.parametrize(
    ("name", "refusal"),
    [("..", ValueError), (".", ValueError), ("", ValueError), ("x/../..", VaultRefused), ("..?", VaultRefused)],
)
async def test_the_id_of_one_thing_never_becomes_the_path_of_another(
    room: AdminRoom, name: str, refusal: type[Exception]
) -> None:
    account = await room.service_account()

    def administer() -> None:
        with AdminClient(room.room.url, client_id=account.client.id, client_secret=account.secret or "") as admin:
            group = admin.create_group({"name": f"Sales {name!r}"})["id"]
            person = admin.add_person({"name": f"kept{len(name)}{refusal.__name__}"})["person"]["id"]
            with pytest.raises(refusal, match="ID" if refusal is ValueError else "not_found|no_person"):
                admin.remove_group_member(group, name)
            with pytest.raises(refusal, match="ID" if refusal is ValueError else "not_found|no_connection"):
                admin.disconnect(person, name)
            assert admin.get_group(group)["id"] == group
            admin.add_group_member(group, person)
            admin.remove_group_member(group, person)  # the twin

    await asyncio.to_thread(administer)


async def test_a_revoked_token_of_a_service_account_is_replaced(room: AdminRoom) -> None:
    account = await room.service_account()

    def administer() -> None:
        sent: list[str] = []
        with (
            httpx2.Client(
                timeout=30, event_hooks={"request": [lambda one: sent.append(one.headers["authorization"])]}
            ) as http,
            AdminClient(
                room.room.url, client_id=account.client.id, client_secret=account.secret or "", http=http
            ) as admin,
        ):
            admin.list_people()
            token = sent[-1].partition(" ")[2]
            admin.list_people()
            assert sent[-1].partition(" ")[2] == token  # the twin: it is kept until then
            revoked = http.post(
                f"{room.room.url}/revoke", data={"token": token}, auth=(account.client.id, account.secret or "")
            )
            assert revoked.status_code == 200
            with pytest.raises(VaultRefused) as refused:
                admin.list_people()
            assert refused.value.status == 401
            assert admin.list_people()["items"]

    await asyncio.to_thread(administer)


@pytest.mark.parametrize("method", ["exchange", "administration"])
async def test_no_redirect_takes_a_token_elsewhere(method: str) -> None:
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.url.host)
        return httpx2.Response(307, headers={"location": "https://thief.example/"})

    client = httpx2.Client(timeout=30, transport=httpx2.MockTransport(answer), follow_redirects=True)
    with client as http, pytest.raises(VaultRefused):
        if method == "exchange":
            Vault("https://vault.example", client_id="c", http=http).token("slack", subject="s")
        else:
            AdminClient("https://vault.example", token=lambda: "t", http=http).add_person({"name": "ada"})
    assert seen == ["vault.example"]


def test_a_token_that_another_thread_drops_meanwhile_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, request = KeptTokens(), request_of("slack", (), subject="s")
    token = UpstreamToken("t", frozenset(), time.time() + 3600)
    interrupts: list[bool] = []

    class Clock:
        """Another thread gets its turn whenever the time is read."""

        def time(self) -> float:
            if interrupts:
                other = threading.Thread(target=kept.forget, args=(request,))
                other.start()
                other.join(0.2)
            return time.time()

    monkeypatch.setattr("token_vault_client.tokens.time", Clock())
    kept.keep(request, token)
    assert kept.find(request) is token  # the twin
    interrupts.append(True)
    assert kept.find(request) in {token, None}


@pytest.mark.parametrize(("left", "is_found"), [(29, False), (60, True), (None, False)])
def test_a_token_is_kept_until_shortly_before_its_end(left: int | None, *, is_found: bool) -> None:
    kept, request = KeptTokens(), request_of("slack", (), subject="s")
    kept.keep(request, UpstreamToken("t", frozenset(), None if left is None else time.time() + left))
    assert (kept.find(request) is not None) is is_found


def test_of_many_tokens_the_least_recently_used_is_dropped() -> None:
    kept, token = KeptTokens(), UpstreamToken("t", frozenset(), time.time() + 3600)
    requests = [request_of("slack", (), subject=str(number)) for number in range(1001)]
    for one in requests[:1000]:
        kept.keep(one, token)
    assert kept.find(requests[0]) is token  # used again
    kept.keep(requests[1000], token)
    assert [kept.find(requests[at]) for at in (0, 1, 2, 1000)] == [token, None, token, token]


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}"])
@pytest.mark.parametrize("status", [502, 200])
def test_an_answer_that_is_no_token_is_a_refusal(status: int, body: bytes) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=body, headers={"content-type": "application/json"})

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer), timeout=30) as http,
        pytest.raises(VaultRefused) as refused,
    ):
        Vault("https://vault.example", client_id="c", http=http).token("slack", subject="s")
    assert refused.value.status == status


@pytest.mark.parametrize("body", [b"", b"<html>"])
def test_an_answer_that_is_no_json_is_a_refusal_of_the_admin_api(body: bytes) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(502, content=body, headers={"content-type": "application/json"})

    with httpx2.Client(transport=httpx2.MockTransport(answer), timeout=30) as http:
        for access in ({"token": lambda: "t"}, {"client_id": "c", "client_secret": "s"}):
            with pytest.raises(VaultRefused) as refused:
                AdminClient("https://vault.example", **access, http=http).list_people()  # pyright: ignore[reportArgumentType]
            assert refused.value.status == 502
