"""The server of provider families, without the rest of the project: every mode works as it describes itself."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

import httpx2
import pytest

from providers.simulator import Simulator, consent, running_simulator
from providers.simulator.modes import MODES, Mode
from tests.support.simulator_apps import (
    CHALLENGE,
    CLIENT,
    PUBLIC_CLIENT,
    REDIRECT,
    VERIFIER,
    add_mode,
    family_settings,
    parameters,
)

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


@dataclass(frozen=True)
class FamilyApp:
    """A client that uses a mode in the way that the mode describes."""

    simulator: Simulator
    http: httpx2.AsyncClient
    name: str

    @property
    def mode(self) -> Mode:
        return MODES[self.name]

    @property
    def base(self) -> str:
        return f"{self.simulator.url}/families/{self.name}"

    @property
    def client(self) -> tuple[str, str]:
        return PUBLIC_CLIENT if "none" in self.mode.client_auth else CLIENT

    def scopes(self) -> list[str]:
        mode = self.mode
        named = [scope for operation in mode.operations for scope in sorted(operation.scopes)] or ["read", "write"]
        return [*named, *([mode.offline_scope] if mode.offline_scope else [])]

    def authorize_url(self, **changes: str | None) -> str:
        mode = self.mode
        wanted: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.client[0],
            "redirect_uri": REDIRECT,
            "state": "st",
            mode.scope_parameter: mode.scope_separator.join(self.scopes()),
            **mode.required_authorize,
            **({} if mode.offline_parameter is None else {mode.offline_parameter[0]: mode.offline_parameter[1]}),
            **({} if mode.pkce == "refused" else {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}),
            **changes,
        }
        named = {mode.names.get(name, name): value for name, value in wanted.items() if value is not None}
        return f"{self.base}/authorize?{urlencode(named)}"

    async def send(self, *, public: bool = False, **values: object) -> httpx2.Response:
        mode = self.mode
        grant_type = str(values["grant_type"])
        values["grant_type"] = mode.grant_types.get(grant_type, grant_type)
        values |= mode.required_token
        auth = self.client if "basic" in mode.client_auth and not public else None
        if auth is None:
            values["client_id"] = self.client[0]
            if "none" not in mode.client_auth and not public:
                values["client_secret"] = self.client[1]
        named = {mode.names.get(name, name): value for name, value in values.items()}
        headers = {"accept": "application/json", **mode.required_headers}
        url = f"{self.base}/token"
        if mode.body == "json":
            return await self.http.post(url, json=named, headers=headers, auth=auth)
        texts = {name: str(value) for name, value in named.items()}
        if mode.body == "query":
            return await self.http.post(url, params=texts, headers=headers, auth=auth)
        return await self.http.post(url, data=texts, headers=headers, auth=auth)

    def read(self, answer: httpx2.Response) -> Mapping[str, object]:
        """The tokens under their standard names."""
        body = answer.json()
        for step in (self.mode.shape.root or "").split("."):
            body = body[step] if step else body
        standard = {theirs: name for name, theirs in self.mode.shape.names.items()}
        return {standard.get(name, name): value for name, value in body.items()}

    async def connect(self, *, account: str = "alice", **changes: str | None) -> Mapping[str, object]:
        location = await consent(self.authorize_url(**changes), account=account)
        values: dict[str, object] = {
            "grant_type": "authorization_code",
            "code": parameters(location)[self.mode.code_name],
        }
        if self.mode.redirect_uri_at_token != "refused":
            values["redirect_uri"] = REDIRECT
        if self.mode.pkce != "refused":
            values["code_verifier"] = VERIFIER
        answer = await self.send(**values)
        assert answer.status_code == self.mode.shape.status, answer.text
        return self.read(answer)

    async def refresh(self, refresh_token: object, **more: object) -> httpx2.Response:
        public = self.mode.refresh_client_auth == frozenset({"none"})
        return await self.send(public=public, grant_type="refresh_token", refresh_token=refresh_token, **more)

    async def get(self, path: str, token: object, *, method: str = "GET", **query: str) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}"}
        return await self.http.request(method, f"{self.base}{path}", params=query, headers=headers)


@pytest.fixture(scope="module")
async def simulator() -> AsyncGenerator[Simulator]:
    async with running_simulator() as running:
        yield running


@pytest.fixture
async def http(simulator: Simulator) -> AsyncGenerator[httpx2.AsyncClient]:
    simulator.reset()
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def app(simulator: Simulator, http: httpx2.AsyncClient, request: pytest.FixtureRequest) -> FamilyApp:
    return FamilyApp(simulator, http, request.param)


def mode(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("app", names, indirect=True)


@mode(*MODES)
async def test_every_mode_connects_tells_the_account_refreshes_and_writes_it_down(app: FamilyApp) -> None:
    tokens = await app.connect()
    shown = await app.get("/identity", tokens["access_token"], method=app.mode.identity_method)
    assert shown.status_code == 200, shown.text
    assert ("refresh_token" in tokens) == app.mode.has_refresh
    (redeemed,) = app.simulator.books()["redemptions"]
    assert (redeemed["face"], redeemed["account"], redeemed["outcome"]) == (f"families.{app.name}", "alice", "ok")
    if not app.mode.has_refresh:
        return
    again = await app.refresh(tokens["refresh_token"])
    assert again.status_code == app.mode.shape.status, again.text
    renewed = app.read(again)
    assert renewed["access_token"] != tokens["access_token"]
    assert (await app.get("/identity", renewed["access_token"], method=app.mode.identity_method)).status_code == 200
    (refreshed,) = app.simulator.books()["refreshes"]
    assert (refreshed["family"], refreshed["token"], refreshed["token_generation"]) == (
        f"families.{app.name}-1",
        f"families.{app.name}-1:r0",
        0,
    )


@mode(*(name for name, one in MODES.items() if one.has_refresh))
async def test_an_unknown_refresh_token_is_refused_in_the_words_of_the_mode(app: FamilyApp) -> None:
    answer = await app.refresh("not-a-token")
    shape = app.mode.shape
    assert answer.status_code == (200 if shape.errors_with_200 or shape.ok_flag else 400)
    assert answer.json()["error"] == app.mode.error_codes.get("invalid_grant", "invalid_grant")
    assert shape.ok_flag is None or answer.json()[shape.ok_flag] is False


async def test_a_mode_that_does_not_exist_has_no_addresses(simulator: Simulator, http: httpx2.AsyncClient) -> None:
    answer = await http.post(f"{simulator.url}/families/nowhere/token")
    assert answer.status_code == 404
    assert "plain" in answer.json()["known"]
    with pytest.raises(ValueError, match="face must be"):
        simulator.control("consent", face="families.nowhere")


async def test_a_mode_of_ones_own_is_served_beside_the_others(simulator: Simulator, http: httpx2.AsyncClient) -> None:
    add_mode(simulator, "mine", Mode("Mine", pkce="required"))
    simulator.control("consent", face="families.mine", account="bob")
    section = family_settings(simulator, "mine", apis=["main"])
    assert section["apis"] == {"main": f"{simulator.url}/families/mine/api"}
    asked = urlencode({"client_id": CLIENT[0], "redirect_uri": REDIRECT, "scope": "read", "code_challenge": CHALLENGE})
    answer = await http.get(f"{section['authorize_url']}?{asked}&code_challenge_method=S256")
    assert "code" in parameters(answer.headers["location"])


# Requests


@mode("pkce-required", "public", "x")
async def test_a_mode_that_requires_pkce_refuses_a_request_without_it(app: FamilyApp) -> None:
    page = await app.http.get(app.authorize_url(code_challenge=None, code_challenge_method=None))
    assert page.status_code == 400
    assert (await app.http.get(app.authorize_url())).status_code == 200


@mode("access-type", "google", "dropbox", "offline-access", "microsoft")
async def test_there_is_a_refresh_token_only_for_whoever_asks_for_one(app: FamilyApp) -> None:
    mode = app.mode
    if mode.offline_parameter is not None:
        changes = {mode.offline_parameter[0]: None}
    else:
        changes = {"scope": " ".join(scope for scope in app.scopes() if scope != mode.offline_scope)}
    assert "refresh_token" not in await app.connect(**changes)
    assert "refresh_token" in await app.connect()


@mode("needs-audience", "atlassian", "notion")
async def test_a_required_parameter_is_missed(app: FamilyApp) -> None:
    (name, *_) = app.mode.required_authorize
    page = await app.http.get(app.authorize_url(**{name: None}))
    assert page.status_code == 400
    assert (await app.http.get(app.authorize_url())).status_code == 200


@mode("redirects-errors")
async def test_a_mode_can_redirect_its_errors(app: FamilyApp) -> None:
    answer = await app.http.get(app.authorize_url(scope=None))
    assert parameters(answer.headers["location"])["error"] == "invalid_scope"
    assert parameters(answer.headers["location"])["state"] == "st"
    stranger = await app.http.get(app.authorize_url(scope=None, client_id="stranger"))
    assert stranger.status_code == 400


@mode("basic-only")
async def test_a_secret_in_the_body_is_refused_where_only_basic_counts(app: FamilyApp) -> None:
    tokens = await app.connect()
    form = {"grant_type": "refresh_token", "refresh_token": str(tokens["refresh_token"])}
    posted = {**form, "client_id": CLIENT[0], "client_secret": CLIENT[1]}
    refused = await app.http.post(f"{app.base}/token", data=posted)
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    assert (await app.http.post(f"{app.base}/token", data=form, auth=CLIENT)).status_code == 200


@mode("form-answers", "github-oauth")
async def test_an_answer_is_a_form_unless_json_was_asked_for(app: FamilyApp) -> None:
    location = await consent(app.authorize_url())
    form = {
        "grant_type": "authorization_code",
        "code": parameters(location)["code"],
        "redirect_uri": REDIRECT,
        "code_verifier": VERIFIER,
        "client_id": CLIENT[0],
        "client_secret": CLIENT[1],
    }
    answer = await app.http.post(f"{app.base}/token", data=form)
    assert answer.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert "access_token" in dict(parse_qsl(answer.text))


# Rotation


@mode("strict", "reuse-revokes", "grace", "grace-sibling", "old-stays", "microsoft", "plain")
async def test_a_used_refresh_token_does_what_the_mode_says(app: FamilyApp) -> None:
    tokens = await app.connect()
    first = app.read(await app.refresh(tokens["refresh_token"]))
    second = await app.refresh(tokens["refresh_token"])
    match app.name:
        case "strict":
            assert second.status_code == 400
            assert (await app.refresh(first["refresh_token"])).status_code == 200
        case "reuse-revokes":
            assert second.status_code == 400
            assert (await app.refresh(first["refresh_token"])).status_code == 400
        case "grace":
            assert app.read(second)["refresh_token"] == first["refresh_token"]
        case "plain":
            assert "refresh_token" not in first
            assert second.status_code == 200
        case _:
            assert app.read(second)["refresh_token"] != first["refresh_token"]
            assert (await app.refresh(first["refresh_token"])).status_code == 200


@mode("ends-access", "github-app", "gitlab")
async def test_a_refresh_can_end_the_access_tokens_before_it(app: FamilyApp) -> None:
    tokens = await app.connect()
    assert (await app.get("/identity", tokens["access_token"])).status_code == 200
    await app.refresh(tokens["refresh_token"])
    assert (await app.get("/identity", tokens["access_token"])).status_code == 401


# Narrowing


@mode("narrows", "ignores-scope", "refuses-scope", "sticky")
async def test_scope_on_refresh_does_what_the_mode_says(app: FamilyApp) -> None:
    tokens = await app.connect()
    narrow = await app.refresh(tokens["refresh_token"], scope="read")
    if app.name == "refuses-scope":
        assert narrow.json()["error"] == "invalid_scope"
        assert (await app.refresh(tokens["refresh_token"], scope="read write")).status_code == 200
        return
    renewed = app.read(narrow)
    assert (await app.get("/probe", renewed["access_token"], scope="read")).status_code == 200
    wider = await app.get("/probe", renewed["access_token"], scope="write")
    assert wider.status_code == (200 if app.name == "ignores-scope" else 403)
    full = app.read(await app.refresh(renewed.get("refresh_token", tokens["refresh_token"])))
    assert full["scope"] == ("read" if app.name == "sticky" else "read write")


@mode("microsoft")
async def test_a_token_is_for_the_resource_of_the_first_scope(app: FamilyApp) -> None:
    other = "https://outlook.office.com/Mail.Send"
    tokens = await app.connect(scope=f"Mail.Read {other} offline_access")
    answer = app.read(await app.refresh(tokens["refresh_token"], scope=f"{other} Mail.Read offline_access"))
    assert answer["scope"] == other
    assert "refresh_token" in answer
    assert (await app.get("/api/me/messages", answer["access_token"])).status_code == 403
    graph = app.read(await app.refresh(tokens["refresh_token"], scope="Mail.Read"))
    assert graph["scope"] == "Mail.Read"
    assert "refresh_token" not in graph
    assert (await app.get("/api/me/messages", graph["access_token"])).status_code == 200


@mode("square")
async def test_scopes_in_an_array_narrow_and_only_the_status_endpoint_tells(app: FamilyApp) -> None:
    tokens = await app.connect()
    answer = app.read(await app.refresh(tokens["refresh_token"], scopes=["PAYMENTS_READ"]))
    assert "scope" not in answer
    assert str(answer["expires_at"]).endswith("Z")
    told = await app.get("/api/oauth2/token/status", answer["access_token"], method="POST")
    assert told.json()["scopes"] == ["PAYMENTS_READ"]
    assert (await app.get("/api/v2/customers", answer["access_token"])).status_code == 403
    assert (await app.get("/api/v2/payments", answer["access_token"])).status_code == 200


@mode("github-app")
async def test_a_scoped_token_is_held_to_its_permissions_and_repositories(app: FamilyApp) -> None:
    tokens = await app.connect()

    async def scope_token(**body: object) -> httpx2.Response:
        content = {"access_token": tokens["access_token"], **body}
        return await app.http.post(f"{app.base}/api/applications/{CLIENT[0]}/token/scoped", json=content, auth=CLIENT)

    assert (await scope_token(permissions={"issues": "read"})).status_code == 422  # without a target
    assert (await scope_token(target="octo", permissions={"administration": "write"})).status_code == 422
    assert (await scope_token(target="octo", permissions={"issues": "read"}, access_token="gone")).status_code == 404
    made = await scope_token(target="octo", repositories=["hello"], permissions={"issues": "read"})
    assert made.json()["installation"]["permissions"] == {"issues": "read", "metadata": "read"}
    token = made.json()["token"]
    assert (await app.get("/api/repos/octo/hello/issues", token)).status_code == 200
    assert (await app.get("/api/repos/octo/other/issues", token)).status_code == 404
    assert (await app.get("/api/repos/octo/hello/issues", token, method="POST")).status_code == 403
    assert (await scope_token(target="octo", permissions={"issues": "read"}, access_token=token)).status_code == 404
    await app.refresh(tokens["refresh_token"])
    assert (await app.get("/api/repos/octo/hello/issues", token)).status_code == 401


@mode("box")
async def test_an_exchanged_token_is_held_to_its_scopes_and_its_item(app: FamilyApp) -> None:
    tokens = await app.connect(scope="root_readwrite")
    base = {"grant_type": EXCHANGE, "subject_token": tokens["access_token"], "subject_token_type": ACCESS_TOKEN}
    item = f"{app.base}/api/2.0/folders/12"
    made = await app.send(**base, scope="base_explorer item_download", resource=item)
    assert {limit["scope"] for limit in made.json()["restricted_to"]} == {"base_explorer", "item_download"}
    token = made.json()["access_token"]
    assert (await app.get("/api/2.0/folders/12/items", token)).status_code == 200
    assert (await app.get("/api/2.0/folders/13/items", token)).status_code == 404
    assert (await app.get("/api/2.0/files/5", token, method="DELETE")).status_code == 403
    assert (await app.get("/api/2.0/folders/13/items", tokens["access_token"])).status_code == 200
    assert (await app.send(**base, scope="manage_enterprise")).json()["error"] == "invalid_scope"
    assert len(app.simulator.books()["refreshes"]) == 0


# Ends


@mode("plain", "revoke-delete", "revoke-bearer", "revoke-query", "revoke-lies", "revoke-unknown-refused", "hubspot")
async def test_revocation_takes_the_token_where_the_mode_says_and_ends_what_it_says(app: FamilyApp) -> None:
    tokens = await app.connect()
    ways = app.mode.revoking

    async def revoke(token: object) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}"} if ways.token_in == "bearer" else {}
        auth = CLIENT if ways.client_auth else None
        address = f"{app.base}/revoke" + (f"/{token}" if ways.token_in == "path" else "")
        query = {ways.name: str(token)} if ways.token_in == "query" else {}
        body = {ways.name: str(token)} if ways.token_in == "body" else {}
        if not headers:
            return await app.http.request(ways.method, address, params=query, data=body, auth=auth)
        return await app.http.request(ways.method, address, headers=headers)

    kind = "refresh_token" if "refresh" in ways.takes else "access_token"
    assert (await revoke("nothing")).status_code == (400 if ways.unknown == "refused" else 200)
    assert (await revoke(tokens[kind])).status_code == 200
    lives = (await app.refresh(tokens["refresh_token"])).status_code == 200
    assert lives == (app.name in {"revoke-lies", "revoke-bearer"})
    (family,) = app.simulator.books()["families"]
    assert family["face"] == f"families.{app.name}"


@mode("strict")
async def test_faults_strike_a_mode_by_its_name(app: FamilyApp) -> None:
    tokens = await app.connect()
    app.simulator.fault("families.strict.token.refresh", "invalid_grant")
    assert json.loads((await app.refresh(tokens["refresh_token"])).text)["error"] == "invalid_grant"
    assert (await app.refresh(tokens["refresh_token"])).status_code == 200
    app.simulator.control("rotation", face="families.strict", mode="none")
    app.simulator.control("revoke_grant", face="families.strict")
    assert app.simulator.books()["families"][0]["ended"] == "revoked"
