"""One person against another, and one agent posing as another: recognition, connect links, stale forms, endings."""

from __future__ import annotations

import asyncio
import re
import secrets

import httpx2
import pytest

from tests.attacks.attack_races import POST, is_done, link_of
from tests.attacks.target import DEVICE, LOOPBACK, PASSWORD, Agent, Target, query_of
from tests.attacks.wire.handles import handle
from tests.support.person import Form, Person, forms_of

QUESTION = "Give it what it had?"


async def victim(target: Target) -> Person:
    """A separate person for one attack, with an account at Slack."""
    name = f"v{secrets.token_hex(4)}"
    await target.command("users", "add", name, "--password-stdin", feed=PASSWORD + "\n")
    person = await target.browser(name)
    await target.connect(person, "slack", account="alice")
    return person


async def software(target: Target, **changes: object) -> str:
    """Register a client that claims to be Cursor; return its client id."""
    facts: dict[str, object] = {"client_name": "Cursor", "redirect_uris": [LOOPBACK], "software_id": "cursor"}
    return str((await target.register(**facts | changes))["client_id"])


async def let_in(target: Target, person: Person, client: str, *, redirect: str = LOOPBACK) -> Agent:
    """Sign the agent in and allow it to post."""
    agent = await target.agent(person, client=client, redirect_uri=redirect)
    page = await person.open(link_of(target, await target.call(agent, "slack_post", POST), "connect"))
    page = await person.submit(page, form="/connect/", button=("decision", "allow"))
    assert page.status_code == 200, page.text[:300]
    assert is_done(await target.call(agent, "slack_post", POST))
    return agent


async def open_consent(target: Target, person: Person, client: str, *, redirect: str = LOOPBACK) -> httpx2.Response:
    """The consent page for this client."""
    page = await person.open(target.authorize_url(client, "A" * 43, redirect_uri=redirect))
    assert page.status_code == 200, page.text[:300]
    return page


def form_of(page: httpx2.Response, part: str) -> Form:
    return next(one for one in forms_of(page.text) if part in one.action)


async def send(target: Target, person: Person, form: Form, **changes: str | None) -> httpx2.Response:
    """Send the form with changes, as this browser would."""
    body: dict[str, list[str]] = {}
    filled = form.fill_in(dict(changes))
    for name, value in filled + (form.widest(filled) if changes.get("decision") == "allow" else []):
        body.setdefault(name, []).append(value)
    return await person.http.post(form.action, data=body, headers={"origin": target.url})


async def may_post(target: Target, person: Person, client: str, *, redirect: str = LOOPBACK) -> bool:
    """Whether the client may post for the person after a plain sign-in."""
    agent = await target.agent(person, client=client, redirect_uri=redirect)
    return is_done(await target.call(agent, "slack_post", POST))


# Recognition


async def test_an_honest_new_registration_gets_by_a_click_what_it_had(target: Target) -> None:
    """The twin of the attacks below."""
    person = await victim(target)
    await let_in(target, person, await software(target))
    client = await software(target)
    page = await open_consent(target, person, client)
    assert QUESTION in page.text
    answer = await send(target, person, form_of(page, "/consent"), decision="again")
    assert "code=" in answer.headers["location"]
    assert await may_post(target, person, client)


async def test_a_look_alike_that_is_allowed_plainly_gets_nothing_of_the_earlier_one(target: Target) -> None:
    person = await victim(target)
    await let_in(target, person, await software(target))
    assert not await may_post(target, person, await software(target))


OTHERS: dict[str, dict[str, object]] = {
    "another software id": {"software_id": "other"},
    "no software id": {"software_id": None},
    "another name": {"client_name": "Cursor 2"},
    "a name in capitals": {"client_name": "CURSOR"},
    "a name with a Cyrillic letter": {"client_name": "Curs\u043er"},
    "another path": {"redirect_uris": [LOOPBACK + "2"]},
    "one more redirect": {"redirect_uris": [LOOPBACK, "https://evil.example/callback"]},
    "a redirect elsewhere": {"redirect_uris": ["https://evil.example/callback"]},
    "a redirect to a host that begins like loopback": {"redirect_uris": ["https://localhost.evil.example/callback"]},
}


@pytest.mark.parametrize("what", OTHERS)
async def test_what_it_had_is_not_given_to_a_client_with(target: Target, what: str) -> None:
    """Not even with the values that the page of a real match offers."""
    person = await victim(target)
    await let_in(target, person, await software(target))
    offered = form_of(await open_consent(target, person, await software(target)), "/consent")
    fingerprint = dict(offered.fields)["earlier"]
    changes = {name: value for name, value in OTHERS[what].items() if value is not None}
    left_out = [name for name, value in OTHERS[what].items() if value is None]
    facts: dict[str, object] = {"client_name": "Cursor", "redirect_uris": [LOOPBACK], "software_id": "cursor"}
    facts = {name: value for name, value in (facts | changes).items() if name not in left_out}
    client = str((await target.register(**facts))["client_id"])
    redirect = str(facts["redirect_uris"][0])
    page = await open_consent(target, person, client, redirect=redirect)
    assert QUESTION not in page.text
    answer = await send(target, person, form_of(page, "/consent"), decision="again", earlier=fingerprint)
    assert "code=" not in answer.headers.get("location", "")
    assert not await may_post(target, person, client, redirect=redirect)


async def test_another_persons_agent_is_neither_offered_nor_given(target: Target) -> None:
    person, stranger = await victim(target), await victim(target)
    await let_in(target, person, await software(target))
    fingerprint = dict(form_of(await open_consent(target, person, await software(target)), "/consent").fields)[
        "earlier"
    ]
    client = await software(target)
    page = await open_consent(target, stranger, client)
    assert QUESTION not in page.text
    answer = await send(target, stranger, form_of(page, "/consent"), decision="again", earlier=fingerprint)
    assert "code=" not in answer.headers.get("location", "")
    assert not await may_post(target, stranger, client)


async def test_a_right_that_was_taken_away_since_the_page_was_shown_is_not_carried_over(target: Target) -> None:
    person = await victim(target)
    agent = await let_in(target, person, await software(target))
    client = await software(target)
    old = form_of(await open_consent(target, person, client), "/consent")
    assert (await send(target, person, without_access(await tab(target, person, agent)))).status_code == 303
    answer = await send(target, person, old, decision="again")
    assert "code=" not in answer.headers.get("location", "")
    assert not await may_post(target, person, client)


@pytest.mark.parametrize("what", ["its name", "a redirect", "its software id"])
async def test_a_client_that_changes_after_the_offer_is_asked_about_anew(target: Target, what: str) -> None:
    person = await victim(target)
    await let_in(target, person, await software(target))
    facts: dict[str, object] = {"client_name": "Cursor", "redirect_uris": [LOOPBACK], "software_id": "cursor"}
    made = await target.register(**facts)
    client = str(made["client_id"])
    old = form_of(await open_consent(target, person, client), "/consent")
    changes: dict[str, dict[str, object]] = {
        "its name": {"client_name": "Cursor (evil)"},
        "a redirect": {"redirect_uris": [LOOPBACK, "https://evil.example/callback"]},
        "its software id": {"software_id": "evil"},
    }
    headers = {"authorization": f"Bearer {made['registration_access_token']}"}
    body = facts | changes[what] | {"client_id": client, "token_endpoint_auth_method": "none"}
    rewritten = await target.http.put(f"/register/{client}", json=body, headers=headers)
    assert rewritten.status_code == 200, rewritten.text
    answer = await send(target, person, old, decision="again")
    assert "code=" not in answer.headers.get("location", "")
    assert not await may_post(target, person, client)


async def test_the_offer_is_taken_once(target: Target) -> None:
    person = await victim(target)
    await let_in(target, person, await software(target))
    form = form_of(await open_consent(target, person, await software(target)), "/consent")
    answers = await asyncio.gather(*(send(target, person, form, decision="again") for _ in range(6)))
    codes = {answer.headers["location"] for answer in answers if "code=" in answer.headers.get("location", "")}
    assert len(codes) == 1


async def test_an_earlier_agent_that_the_click_ends_has_ended(target: Target) -> None:
    person = await victim(target)
    earlier = await let_in(target, person, await software(target))
    form = form_of(await open_consent(target, person, await software(target)), "/consent")
    assert "code=" in (await send(target, person, form, decision="again", end="yes")).headers["location"]
    assert (await target.call(earlier, "slack_post", POST)).status_code == 401
    spent = {"grant_type": "refresh_token", "client_id": earlier.client_id, "refresh_token": earlier.refresh or ""}
    assert (await target.token(spent)).status_code == 400


async def test_a_device_is_never_offered_what_another_had(target: Target) -> None:
    """An attacker could have started that sign-in and sent its code (RFC 8628 §5.4)."""
    person = await victim(target)
    await let_in(target, person, await software(target))
    client = await software(target, grant_types=["authorization_code", "refresh_token", DEVICE])
    started = await target.http.post("/device_authorization", data={"client_id": client, "scope": "tools"})
    assert started.status_code == 200, started.text
    page = await person.submit(await person.open("/device"), {"user_code": started.json()["user_code"]}, form="/device")
    assert "/consent" in str(page.url)
    assert QUESTION not in page.text


# Connect links


async def link(target: Target, person: Person) -> tuple[Agent, str]:
    """An agent of the person that may use nothing yet, and its link."""
    agent = await target.agent(person)
    return agent, link_of(target, await target.call(agent, "slack_post", POST), "connect")


async def test_a_link_lets_its_own_agent_only_use_the_account(target: Target) -> None:
    person = await victim(target)
    (first, url), (second, _) = await link(target, person), await link(target, person)
    page = await person.open(url)
    await person.submit(page, form="/connect/", button=("decision", "allow"))
    assert is_done(await target.call(first, "slack_post", POST))
    assert not is_done(await target.call(second, "slack_post", POST))


async def test_a_link_cannot_be_answered_by_another_person_with_a_form_of_their_own(target: Target) -> None:
    person, stranger = await victim(target), await victim(target)
    agent, url = await link(target, person)
    _, own = await link(target, stranger)
    form = form_of(await stranger.open(own), "/connect/")
    form.action = url.removeprefix(target.url)
    assert (await send(target, stranger, form, decision="allow")).status_code in {403, 404, 410}
    assert not is_done(await target.call(agent, "slack_post", POST))
    page = await person.open(url)  # the link still works
    await person.submit(page, form="/connect/", button=("decision", "allow"))
    assert is_done(await target.call(agent, "slack_post", POST))


async def test_a_link_does_not_bring_another_persons_account(target: Target) -> None:
    person, stranger = await victim(target), await target.browser("mallory")
    agent, url = await link(target, stranger)
    found = re.search(r"/connections/([A-Za-z0-9_-]{16,})", (await person.open("/connections")).text)
    assert found is not None
    foreign = found[1]
    form = form_of(await stranger.open(url), "/connect/")
    answer = await send(target, stranger, form, decision="allow", account=foreign)
    assert answer.status_code in {400, 403, 404, 409, 410}, answer.text[:200]
    assert not is_done(await target.call(agent, "slack_post", POST | {"account": foreign}))


@pytest.mark.parametrize(
    "purpose", ["consent", "approval", "device", "code", "device code", "state", "pushed", "sign-in"]
)
async def test_a_links_secret_is_no_other_secret(target: Target, purpose: str) -> None:
    person = await victim(target)
    _, url = await link(target, person)
    secret, client = url.rpartition("/")[2], str((await target.register())["client_id"])
    match purpose:
        case "consent":
            answer = await person.open(f"/consent?request={secret}")
        case "approval":
            answer = await person.open(f"/approvals/{secret}")
        case "device":
            answer = await person.submit(await person.open("/device"), {"user_code": secret}, form="/device")
        case "code":
            answer = await target.redeem(client, secret, "v" * 43)
        case "device code":
            device = {"client_id": target.clients["device"]["client_id"], "device_code": secret}
            answer = await target.token({"grant_type": DEVICE} | device)
        case "state":
            answer = await person.http.get(f"/connect/callback/slack?code=a&state={secret}")
        case "pushed":
            wanted = f"urn:ietf:params:oauth:request_uri:{secret}"
            answer = await person.http.get("/authorize", params={"client_id": client, "request_uri": wanted})
        case _:
            answer = await (await target.browser()).http.get(f"/sign-in/local?secret={secret}")
    assert answer.status_code in {400, 403, 404, 409, 410}, (answer.status_code, answer.text[:200])
    assert (await person.open(url)).status_code == 200  # and it is not used up


async def test_a_link_dies_with_its_agent(target: Target) -> None:
    person = await victim(target)
    agent, url = await link(target, person)
    page = await person.open(url)
    gone = await person.open(f"/agents/{agent.client_id}/cut-off")
    await person.submit(gone, form="cut-off")
    answer = await send(target, person, form_of(page, "/connect/"), decision="allow")
    assert answer.status_code in {403, 404, 409, 410}, answer.text[:200]
    assert (await target.call(agent, "slack_post", POST)).status_code == 401


async def test_an_answer_of_a_provider_counts_in_the_browser_that_left_only(target: Target) -> None:
    """The same person in another browser: a stranger may have sent the URL with the stranger's own account."""
    first, second = await target.browser("mallory"), await target.browser("mallory")
    page = await first.open("/connections/connect?provider=github")
    state = query_of((await first.submit(page, form="/connections/connect")).headers["location"])["state"]
    before = sum(one.path == "/token" for one in target.provider.arrivals)
    answer = await second.http.get(f"/connect/callback/github?code=stolen&state={state}")
    assert answer.status_code in {400, 403, 409, 410}
    assert sum(one.path == "/token" for one in target.provider.arrivals) == before
    target.kept["login"] = "mallory"
    assert (await first.open(f"/connect/callback/github?code=own&state={state}")).status_code == 200  # the twin


# Forms in two tabs


async def tab(target: Target, person: Person, agent: Agent) -> Form:
    return form_of(await person.open(f"/agents/{agent.client_id}"), f"/agents/{agent.client_id}/access")


def without_access(form: Form) -> Form:
    form.fields = [(name, "off" if name.startswith("level.") else value) for name, value in form.fields]
    return form


def asking_first(form: Form) -> Form:
    """Choose to be asked before each post, and leave the rest unchanged."""
    form.fields = [(name, "custom" if name.startswith("level.") else value) for name, value in form.fields]
    form.fields.append(("ask", next(value for value in form.choices["ask"] if value.endswith("tool:slack_post"))))
    return form


async def test_an_old_tab_does_not_take_back_that_the_person_is_asked(target: Target) -> None:
    person = await victim(target)
    agent = await let_in(
        target, person, str((await target.register())["client_id"]), redirect="https://agent.example/callback"
    )
    old, new = await tab(target, person, agent), await tab(target, person, agent)
    assert (await send(target, person, asking_first(new))).status_code == 303
    assert not is_done(await target.call(agent, "slack_post", POST))
    assert (await send(target, person, old)).status_code == 409
    assert not is_done(await target.call(agent, "slack_post", POST))


@pytest.mark.parametrize(
    "way",
    ["without its marks", "with marks of another agent", "with marks twice", "with the new marks for one account"],
)
async def test_an_old_tab_does_not_pass_for_a_new_one(target: Target, way: str) -> None:
    person = await victim(target)
    redirect = "https://agent.example/callback"
    agent = await let_in(target, person, str((await target.register())["client_id"]), redirect=redirect)
    other = await let_in(target, person, str((await target.register())["client_id"]), redirect=redirect)
    old, new = await tab(target, person, agent), await tab(target, person, agent)
    assert (await send(target, person, without_access(new))).status_code == 303
    marks = [pair for pair in old.fields if pair[0] == "held"]
    rest = [pair for pair in old.fields if pair[0] != "held"]
    foreign = [pair for pair in (await tab(target, person, other)).fields if pair[0] == "held"]
    old.fields = (
        rest
        + {
            "without its marks": [],
            "with marks of another agent": foreign,
            "with marks twice": marks + marks,
            "with the new marks for one account": marks + foreign,
        }[way]
    )
    assert (await send(target, person, old)).status_code == 409
    assert not is_done(await target.call(agent, "slack_post", POST))


async def test_an_old_tab_of_the_consent_page_gives_nothing_back(target: Target) -> None:
    person = await victim(target)
    redirect = "https://agent.example/callback"
    client = str((await target.register())["client_id"])
    agent = await let_in(target, person, client, redirect=redirect)
    page = await person.open(target.authorize_url(client, "A" * 43, prompt="consent"))
    old, new = form_of(page, "/consent"), await tab(target, person, agent)
    assert (await send(target, person, without_access(new))).status_code == 303
    answer = await send(target, person, old, decision="allow")
    assert "code=" not in answer.headers.get("location", "")
    assert not is_done(await target.call(agent, "slack_post", POST))


@pytest.mark.parametrize(
    "since", ["the agent was cut off", "it was changed there and back", "nothing", "another person"]
)
async def test_an_old_page_takes_nothing_back_but_the_last_change(target: Target, since: str) -> None:
    person = await victim(target)
    client = str((await target.register())["client_id"])
    agent = await let_in(target, person, client, redirect="https://agent.example/callback")
    given = await tab(target, person, agent)
    page = await person.open(
        (await send(target, person, without_access(await tab(target, person, agent)))).headers["location"]
    )
    old, sender = form_of(page, "/undo"), person
    match since:
        case "the agent was cut off":
            await person.submit(await person.open(f"/agents/{client}/cut-off"), form="cut-off")
        case "it was changed there and back":
            for level in ("write", "off"):
                form = await tab(target, person, agent)
                form.fields = [(name, level if name.startswith("level.") else value) for name, value in form.fields]
                assert (await send(target, person, form)).status_code == 303
        case "another person":
            sender = await victim(target)
            await target.agent(sender, client=client)
        case _:
            pass
    assert given.fields
    await send(target, sender, old)
    may = is_done(await target.call(agent, "slack_post", POST))
    if since == "the agent was cut off":
        again = await target.agent(person, client=client)
        may = is_done(await target.call(again, "slack_post", POST))
    assert may is (since == "nothing")


# Endings


async def test_a_form_gives_no_right_to_another_persons_account(target: Target) -> None:
    person, stranger = await victim(target), await victim(target)
    redirect = "https://agent.example/callback"
    theirs = await let_in(target, person, str((await target.register())["client_id"]), redirect=redirect)
    foreign = next(value for name, value in (await tab(target, person, theirs)).fields if name == "use")
    mine = await target.agent(stranger)
    form = await tab(target, stranger, mine)
    account = foreign.partition(" ")[0]
    marks = [pair for pair in (await tab(target, person, theirs)).fields if pair[0] == "held"]
    form.fields += [("use", foreign), (f"level.{account}", "write"), *marks]
    assert (await send(target, stranger, form)).status_code in {303, 409}
    assert not is_done(await target.call(mine, "slack_post", POST | {"account": account}))
    answer = await stranger.http.post(
        f"/agents/{theirs.client_id}/access", data=dict(form.fields), headers={"origin": target.url}
    )
    assert answer.status_code in {403, 404}
    assert is_done(await target.call(theirs, "slack_post", POST))


async def test_connecting_the_same_account_as_another_person_ends_nothing_of_theirs(target: Target) -> None:
    """Connecting replaces an earlier grant only of the person's own account."""
    one = await handle(target, "github", "contents:read")
    assert (await one.call("GET", "/repos/alice/notes/readme")).status_code == 200
    person = await victim(target)
    revoked = sum(arrival.path == "/revoke" for arrival in target.provider.arrivals)
    for _ in range(2):
        await target.connect(person, "github", account="alice")
    assert (await one.call("GET", "/repos/alice/notes/readme")).status_code == 200
    assert sum(arrival.path == "/revoke" for arrival in target.provider.arrivals) == revoked
    assert "github" in await target.connection_ids("alice")


async def test_a_question_about_a_call_is_answered_by_its_person_only(target: Target) -> None:
    person, stranger = await victim(target), await victim(target)
    redirect = "https://agent.example/callback"
    agents = []
    for one in (person, stranger):
        agent = await let_in(target, one, str((await target.register())["client_id"]), redirect=redirect)
        assert (await send(target, one, asking_first(await tab(target, one, agent)))).status_code == 303
        agents.append(agent)
    url = link_of(target, await target.call(agents[0], "slack_post", POST), "approvals")
    own = link_of(target, await target.call(agents[1], "slack_post", POST), "approvals")
    for decision in ("allow", "deny"):
        form = form_of(await stranger.open(own), "/approvals/")
        form.action = url.removeprefix(target.url)
        assert (await send(target, stranger, form, decision=decision)).status_code in {403, 404, 410}
    assert not is_done(await target.call(agents[0], "slack_post", POST))
    page = await person.open(url)
    await person.submit(page, form="/approvals/", button=("decision", "allow"))
    assert is_done(await target.call(agents[0], "slack_post", POST))  # it was not denied either


async def test_nobody_ends_another_persons_sessions_or_account(target: Target) -> None:
    person, stranger = await victim(target), await victim(target)
    for form in forms_of((await stranger.open("/account")).text):
        if "sign-out" in form.action or "sessions" in form.action:
            await send(target, stranger, form)
    assert (await person.http.get("/connections")).status_code == 200
