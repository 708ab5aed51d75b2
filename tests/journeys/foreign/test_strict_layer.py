"""The strict layer in front of emulate refuses what emulate accepts: each request with one fault and without it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import pytest_asyncio

from tests.support.foreign.emulated_services import AUTH, FACES, HOUR, NAMES, EmulatedServices, open_emulated
from tests.support.foreign.strict_layer import App, challenge_of

pytestmark = pytest.mark.group("node")

VERIFIER = "a-verifier-that-is-long-enough-to-be-one-at-all"
READS, WRITES = f"{AUTH}calendar.events.readonly", f"{AUTH}calendar.events"
EVENTS = "/calendar/v3/calendars/primary/events"
EVENT = {"summary": "x", "start": {"dateTime": "2036-06-01T09:00:00Z"}, "end": {"dateTime": "2036-06-01T10:00:00Z"}}
ME = {
    "slack": ("POST", "/api/auth.test"),
    "google": ("GET", EVENTS),
    "github": ("GET", "/user"),
    "microsoft": ("GET", "/v1.0/me"),
    "linear": ("POST", "/graphql"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[EmulatedServices]:
    async with open_emulated(tmp_path_factory.mktemp("emulated")) as opened:
        yield opened


@dataclass(frozen=True)
class Hand:
    """A handwritten client of one service."""

    place: EmulatedServices
    name: str

    @property
    def app(self) -> App:
        return self.place.apps[self.name]

    def query(self, *scopes: str) -> dict[str, str]:
        """The query of a valid authorization request."""
        face = FACES[self.name]
        app = {"client_id": self.app.client_id, "redirect_uri": self.app.redirect_uri}
        query = {"response_type": "code", "state": secrets.token_hex(16), **app}
        if not face.app_level:
            query[face.scope_param] = face.separator.join(scopes or sorted(self.app.scopes))
        if face.pkce == "required":
            query |= {"code_challenge": challenge_of(VERIFIER), "code_challenge_method": "S256"}
        return query

    async def open(self, query: Mapping[str, str]) -> httpx2.Response:
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            return await http.get(self.place.urls[self.name] + FACES[self.name].authorize, params=query)

    async def code(self, *scopes: str) -> str:
        url = httpx2.URL(self.place.urls[self.name] + FACES[self.name].authorize, params=self.query(*scopes))
        return parse_qs(urlsplit(await self.place.pick(str(url))).query)["code"][0]

    async def ask(self, **form: str) -> httpx2.Response:
        """Send a request to the token endpoint, with the right client unless the form names another."""
        face = FACES[self.name]
        said = {"client_id": self.app.client_id, "client_secret": self.app.client_secret} | form
        basic = None
        if face.client_auth == "client_secret_basic":
            basic = httpx2.BasicAuth(said.pop("client_id"), said.pop("client_secret"))
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            return await http.post(self.place.urls[self.name] + face.token, data=said, auth=basic)

    async def redeem(self, code: str, changed: Mapping[str, str] | None = None) -> httpx2.Response:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self.app.redirect_uri}
        verifier = {"code_verifier": VERIFIER} if FACES[self.name].pkce == "required" else {}
        return await self.ask(**{**form, **verifier, **(changed or {})})

    async def tokens(self, *scopes: str) -> Mapping[str, str]:
        content = (await self.redeem(await self.code(*scopes))).json()
        root = FACES[self.name].root
        return content[root] if root else content

    async def call(
        self, token: str, verb: str = "", path: str = "", *, bare: bool = False, json: object = None
    ) -> httpx2.Response:
        """Call the API; call emulate itself if `bare`."""
        verb, path = (verb, path) if verb else ME[self.name]
        if self.name == "linear":
            json = {"query": "{ viewer { id } }"}
        origin = (self.place.bare if bare else self.place.urls)[self.name]
        async with httpx2.AsyncClient(
            trust_env=False, headers={"authorization": f"Bearer {token}"}, timeout=30
        ) as http:
            return await http.request(verb, origin + path, json=json)


def is_let(answer: httpx2.Response) -> bool:
    """Whether an answer contains what was asked for."""
    if "json" not in answer.headers.get("content-type", ""):
        return answer.status_code == 200
    return answer.status_code < 300 and "error" not in answer.json()


_EVERYWHERE: tuple[dict[str, str], ...] = (
    {"redirect_uri": "http://localhost:1/elsewhere"},
    {"client_id": "somebody"},
    {"state": "short"},
)
_ONE_WRONG = [
    *((name, changed) for name in NAMES for changed in _EVERYWHERE),
    *((name, {"code_challenge_method": "plain"}) for name in NAMES if FACES[name].pkce == "required"),
    *((name, {FACES[name].scope_param: "everything"}) for name in NAMES),
    ("slack", {"code_challenge": challenge_of(VERIFIER), "code_challenge_method": "S256"}),
]


@pytest.mark.parametrize(("name", "changed"), _ONE_WRONG)
async def test_an_authorization_request_with_one_thing_wrong_is_refused(
    place: EmulatedServices, name: str, changed: Mapping[str, str]
) -> None:
    hand = Hand(place, name)
    assert is_let(await hand.open(hand.query()))
    assert not is_let(await hand.open({**hand.query(), **changed}))


_WRONG_CODES = [
    *((name, {"redirect_uri": "http://localhost:1/elsewhere"}) for name in NAMES),
    *((name, {"client_secret": "a guess"}) for name in NAMES),
    *((name, {"code": "a guess"}) for name in NAMES),
    *((name, {"code_verifier": VERIFIER + "x"}) for name in NAMES),
]


@pytest.mark.parametrize(("name", "changed"), _WRONG_CODES)
async def test_a_code_with_one_thing_wrong_gets_nothing(
    place: EmulatedServices, name: str, changed: Mapping[str, str]
) -> None:
    hand = Hand(place, name)
    code = await hand.code()
    assert not is_let(await hand.redeem(code, changed))
    assert is_let(await hand.redeem(code))


@pytest.mark.parametrize("name", NAMES)
async def test_a_code_that_comes_twice_ends_what_it_gave(place: EmulatedServices, name: str) -> None:
    hand = Hand(place, name)
    code = await hand.code()
    content = (await hand.redeem(code)).json()
    token = (content[root] if (root := FACES[name].root) else content)["access_token"]
    assert is_let(await hand.call(token))
    assert not is_let(await hand.redeem(code))
    assert not is_let(await hand.call(token))


@pytest.mark.parametrize("name", NAMES)
async def test_a_token_of_nobody_is_refused_although_emulate_takes_it(place: EmulatedServices, name: str) -> None:
    hand = Hand(place, name)
    assert is_let(await hand.call("garbage", bare=True)) == (name != "linear")
    assert not is_let(await hand.call("garbage"))
    assert is_let(await hand.call((await hand.tokens())["access_token"]))


async def test_a_scope_that_the_token_lacks_is_missed(place: EmulatedServices) -> None:
    hand = Hand(place, "google")
    reading, writing = (await hand.tokens(READS))["access_token"], (await hand.tokens(READS, WRITES))["access_token"]
    assert is_let(await hand.call(reading, "POST", EVENTS, bare=True, json=EVENT))  # emulate doesn't check
    refused = await hand.call(reading, "POST", EVENTS, json=EVENT)
    assert (refused.status_code, refused.json()["error"]) == (403, "missing_scope")
    assert is_let(await hand.call(writing, "POST", EVENTS, json=EVENT))


async def test_a_call_that_the_service_does_not_have_is_refused(place: EmulatedServices) -> None:
    hand = Hand(place, "google")
    token = (await hand.tokens())["access_token"]
    assert (await hand.call(token, "GET", "/calendar/v3/nothing")).status_code == 404
    assert is_let(await hand.call(token))


async def test_a_narrower_token_is_made_on_refresh_and_no_wider_one(place: EmulatedServices) -> None:
    hand = Hand(place, "google")
    held = await hand.tokens(READS)
    renew = {"grant_type": "refresh_token", "refresh_token": held["refresh_token"]}
    assert not is_let(await hand.ask(**renew, scope=WRITES))
    assert not is_let(await hand.ask(**renew | {"refresh_token": "a guess"}))
    assert (await hand.ask(**renew, scope=READS)).json()["scope"] == READS


async def test_a_token_ends_with_its_hour_and_with_its_grant(place: EmulatedServices) -> None:
    hand, layer = Hand(place, "google"), place.layers["google"]
    held = await hand.tokens()
    layer.now += HOUR - 1
    assert is_let(await hand.call(held["access_token"]))
    layer.now += 1
    assert not is_let(await hand.call(held["access_token"]))
    renew = {"grant_type": "refresh_token", "refresh_token": held["refresh_token"]}
    renewed = (await hand.ask(**renew)).json()["access_token"]
    assert is_let(await hand.call(renewed))
    revoke = {"token": held["refresh_token"]}
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        url = place.urls["google"] + "/oauth2/revoke"
        assert (await http.post(url, data={"token": "nobody's"})).status_code == 400
        assert (await http.post(url, data=revoke)).status_code == 200
    assert is_let(await hand.call(renewed, bare=True))  # emulate only forgets the refresh token
    assert not is_let(await hand.call(renewed))
    assert not is_let(await hand.ask(**renew))
