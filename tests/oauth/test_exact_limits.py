"""The longest inputs that count, and those that are one longer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from server.oauth import authorize
from server.oauth.backchannel import hints, parameters
from server.oauth.backchannel.clients import DELIVERY
from server.oauth.backchannel.parameters import LONGEST_EXPIRY, USUAL_EXPIRY
from server.oauth.clients import authentication
from server.oauth.clients.metadata_documents import is_document_url
from server.oauth.clients.rules import is_same_software
from server.oauth.parameters import Parameters, parse_parameters
from server.oauth.redirect_uris import check_redirect_uri, redirect_matches
from server.oauth.rules import OAuthError
from tests.support.rooms.oauth_world import REDIRECT, WEB, World, error_of
from vault import clients
from vault.records import Client, ClientKind

pytest_plugins = ["tests.support.rooms.oauth_fixtures"]
KINDS = [(ClientKind.DYNAMIC, True), (ClientKind.METADATA, True), (ClientKind.MANUAL, False)]


@pytest.mark.parametrize(("length", "is_found"), [(512, True), (513, False)])
async def test_an_id_of_a_client_has_512_characters_at_most(world: World, length: int, *, is_found: bool) -> None:
    deployment, client_id = world.vault.deployment, "c" * length
    client = Client(client_id, ClientKind.MANUAL, "Long", "none", (REDIRECT,), world.now())
    async with deployment.transaction() as transaction:
        await clients.save_client(transaction, client)
    found = await authentication.find_client(deployment, client_id, address="127.0.0.1")
    assert (found is not None) is is_found


@pytest.mark.parametrize(("length", "counts"), [(512, True), (513, False)])
def test_the_address_of_a_document_has_512_characters_at_most(length: int, *, counts: bool) -> None:
    start = "https://a.example/"
    assert is_document_url(start + "c" * (length - len(start)), allow_loopback=False) is counts


@pytest.mark.parametrize(
    ("asked", "matches"),
    [
        ("http://127.0.0.1:1/cb", True),
        ("http://127.0.0.1:65535/cb", True),
        ("http://127.0.0.1:65536/cb", False),
        ("http://127.0.0.1:0/cb", False),
    ],
)
def test_a_loopback_port_is_between_1_and_65535(asked: str, *, matches: bool) -> None:
    assert redirect_matches(["http://127.0.0.1/cb"], asked) is matches


@pytest.mark.parametrize(
    ("uri", "counts"),
    [
        ("app://host", True),
        ("app:/x", True),
        ("app:/", False),
        ("app:/*", False),
        ("other:/x", False),
        ("https://a.example:0/", False),
        ("https://a.example:1/", True),
        ("https://a.example/" + "c" * 2030, True),
        ("https://a.example/" + "c" * 2031, False),
    ],
)
def test_a_redirect_uri_leads_somewhere(uri: str, *, counts: bool) -> None:
    if counts:
        check_redirect_uri(uri, private_use_schemes=["app"])
    else:
        with pytest.raises(OAuthError):
            check_redirect_uri(uri, private_use_schemes=["app"])


@pytest.mark.parametrize(("one", "is_known"), KINDS)
@pytest.mark.parametrize(("other", "is_other_known"), KINDS)
def test_only_agents_that_describe_themselves_can_be_the_same_software(
    one: ClientKind, other: ClientKind, *, is_known: bool, is_other_known: bool
) -> None:
    first, second = (Client(kind, kind, "Agent", "none", (REDIRECT,), 1) for kind in (one, other))
    assert is_same_software(first, second) is (is_known and is_other_known)


def test_a_request_has_sixty_parameters_at_most() -> None:
    most = "&".join(f"a{number}=1" for number in range(60))
    assert len(parse_parameters(most).values) == 60
    with pytest.raises(OAuthError):
        parse_parameters(f"{most}&b=1")


@pytest.mark.parametrize("is_announced", [True, False])
@pytest.mark.parametrize(("length", "code"), [(32_768, "unsupported_grant_type"), (32_769, "")])
async def test_a_form_is_read_up_to_its_limit(world: World, length: int, code: str, *, is_announced: bool) -> None:
    start = f"client_id={await world.public_client()}&grant_type=none&more="
    body = (start + "x" * (length - len(start))).encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await world.http.post("/token", content=body if is_announced else pieces(), headers=headers)
    assert (answer.status_code, error_of(answer)) == ((400, code) if code else (413, "invalid_request"))


@pytest.mark.parametrize("more", [0, 1])
async def test_a_pushed_request_is_kept_up_to_its_limit(world: World, more: int) -> None:
    form = {"client_id": await world.public_client(), "redirect_uri": REDIRECT, "response_type": "code"}
    form |= {"code_challenge": "A" * 43, "code_challenge_method": "S256", "state": "s" * 4096, "scope": "tools "}
    form["scope"] += "x" * (8192 + more - sum(map(len, form.values())))
    answer = await world.http.post("/par", data=form)
    assert answer.status_code == (400 if more else 201), answer.text


@pytest.mark.parametrize(("name", "longest"), [("nonce", 512), ("state", 4096), ("max_age", 10)])
async def test_a_value_of_an_authorization_request_has_a_length_at_most(world: World, name: str, longest: int) -> None:
    client_id = await world.public_client()
    for length, error in ((longest, False), (longest + 1, True)):
        answer = await world.ask(client_id, **{name: "1" * length})
        assert ("error=invalid_request" in answer.headers["location"]) is error


async def test_up_to_thirty_contacts_are_kept_whole(world: World) -> None:
    body: dict[str, object] = {"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none"}
    texts = dict.fromkeys(("software_id", "software_version", "application_type"), "a" * 2048)
    answer = await world.http.post("/register", json=body | texts | {"contacts": ["a"] * 30})
    assert answer.status_code == 201, answer.text
    found = answer.json()
    assert {name: found[name] for name in texts} == texts
    assert found["contacts"] == ["a"] * 30
    for wrong in ({"contacts": ["a"] * 31}, {"redirect_uris": []}):
        assert (await world.http.post("/register", json=body | wrong)).status_code == 400


@pytest.mark.parametrize(("length", "code"), [(1024, "unknown_user_id"), (1025, "invalid_request")])
async def test_a_hint_has_1024_characters_at_most(world: World, length: int, code: str) -> None:
    client = Client("asker", ClientKind.MANUAL, "Asker", "none", (REDIRECT,), world.now())
    with pytest.raises(OAuthError) as refused:
        await hints.hinted_person(world.vault.deployment, parse_parameters(f"login_hint={'a' * length}"), client=client)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (None, USUAL_EXPIRY),
        ("1", 1),
        (str(LONGEST_EXPIRY), LONGEST_EXPIRY),
        ("0", None),
        (str(LONGEST_EXPIRY + 1), None),
    ],
)
def test_a_person_has_from_one_second_to_the_longest_expiry(asked: str | None, seconds: int | None) -> None:
    form = Parameters({} if asked is None else {"requested_expiry": asked})
    if seconds is None:
        with pytest.raises(OAuthError):
            parameters.expiry_of(form)
    else:
        assert parameters.expiry_of(form) == seconds


@pytest.mark.parametrize(("message", "counts"), [(None, True), ("x", True), ("x" * 64, True), ("x" * 65, False)])
def test_a_binding_message_has_64_characters_at_most(message: str | None, *, counts: bool) -> None:
    form = Parameters({} if message is None else {"binding_message": message})
    if counts:
        assert parameters.message_of(form) == (message or "")
    else:
        with pytest.raises(OAuthError):
            parameters.message_of(form)


@pytest.mark.parametrize(
    ("token", "counts"), [("t", True), ("t" * 1024, True), ("t" * 1025, False), ("t t", False), (None, False)]
)
@pytest.mark.parametrize("mode", ["poll", "ping", "push"])
def test_a_client_that_is_told_names_a_token(token: str | None, mode: str, *, counts: bool) -> None:
    client = Client("c", ClientKind.MANUAL, "C", "client_secret_post", (), 0, metadata={DELIVERY: mode})
    form = Parameters({} if token is None else {"client_notification_token": token})
    if mode == "poll":
        assert parameters.ping_token_of(form, client) is None
    elif counts:
        assert parameters.ping_token_of(form, client) == token
    else:
        with pytest.raises(OAuthError):
            parameters.ping_token_of(form, client)


@pytest.mark.parametrize(
    ("kind", "uri", "words"),
    [
        (ClientKind.DYNAMIC, REDIRECT, ["registered itself"]),
        (ClientKind.DYNAMIC, "app://host", ["registered itself", "installed on this computer"]),
        (ClientKind.METADATA, REDIRECT, ["can claim to be this agent"]),
        (ClientKind.METADATA, WEB, []),
        (ClientKind.MANUAL, REDIRECT, []),
        (ClientKind.MANUAL, "app://host", ["installed on this computer"]),
        (ClientKind.MANUAL, "", []),  # of a device
    ],
)
def test_the_person_is_warned_of_what_is_true_of_the_agent_alone(kind: ClientKind, uri: str, words: list[str]) -> None:
    found = authorize._warnings(Client("c", kind, "C", "none", (uri or REDIRECT,), 0), uri)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))
