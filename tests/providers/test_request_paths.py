"""Paths of calls: spellings that some server treats as equal are judged as equal, for tools and proxy."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from providers.api.rules import of_path
from providers.definitions.catalog import load_catalog
from providers.definitions.model import Provider
from providers.definitions.paths import path_problem
from server.proxy.wire import ProxyRefused, Target, aim, read_target
from tests.support.rooms.mcp_room import room

RULES = (
    ("/items/{}", "read"),
    ("/items/all", "admin"),
    ("/items/{}/files/{+}", "read"),
    ("/items/{}/files/.ci/jobs/{+}", "admin"),
    ("/v1/{}", "read"),
    ("/v1/{}:purge", "admin"),
)
SLACK = load_catalog().provider("slack")
STORE = SLACK.model_copy(
    update={
        "rules": tuple(
            type(SLACK.rules[0])(api="web", method=("GET",), path=path, scopes=frozenset({scope}))
            for path, scope in RULES
        )
    }
)
SEGMENTS = (
    "all",
    "ALL",
    "x",
    "files",
    ".ci",
    ".CI",
    "jobs",
    "Jobs",
    "items",
    "v1",
    "y:purge",
    "y:PURGE",
    "a/b",
    "all ",
)
SPELLINGS = (
    lambda one: one,
    lambda one: quote(one, safe=""),
    lambda one: f"%{ord(one):02x}",
    lambda one: f"%25{ord(one):02X}",
    lambda one: one.upper(),
    lambda one: chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one,  # the full-width form
)


def test_a_copy_with_other_rules_is_judged_by_them() -> None:
    asked = SLACK.model_copy()
    assert asked.rules_by_call  # cached, and not copied with the model
    changed = asked.model_copy(update={"rules": STORE.rules})
    assert scopes_of("/items/all", changed) == {"admin"}
    assert asked.model_copy(update={"apis": asked.apis}).rules_by_call is asked.rules_by_call


def scopes_of(path: str, provider: Provider = STORE) -> frozenset[str]:
    """All scopes that some rule for this path accepts; none if the call is refused."""
    return frozenset(scope for rule in of_path(provider, api="web", method="GET", path=path) for scope in rule.scopes)


def as_servers_read(path: str) -> set[str]:
    """The path as various servers parse it, from the strictest to the most lenient."""
    found = {path}
    for _ in range(2):
        found |= {unquote(one) for one in found}
        found |= {unicodedata.normalize("NFKC", one) for one in found}
    found |= {one.lower() for one in found}
    found |= {one.replace("//", "/").replace("\\", "/") for one in found}
    found |= {one.partition(";")[0] for one in found} | {one.rstrip(". ") for one in found}
    return found | {one.removesuffix(".json") for one in found}


@given(
    st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5),
    st.lists(st.sampled_from(SPELLINGS), min_size=40, max_size=40),
    st.sampled_from(["", "/", ".", "%20", ";x=1", ".json", "%2e", "%3B", "//"]),
)
@example(["items", "all"], [SPELLINGS[0]] * 6 + [SPELLINGS[2]] + [SPELLINGS[0]] * 40, "")
def test_whoever_reads_a_path_that_passes_reads_one_with_the_same_rules(
    segments: list[str], spell: list[Callable[[str], str]], end: str
) -> None:
    spelled = "".join(one if one == "/" else way(one) for one, way in zip("/".join(segments)[:40], spell, strict=False))
    path = f"/{spelled}{end}"
    verdict = scopes_of(path)
    if verdict:
        for read in as_servers_read(path):
            other = scopes_of(quote(read, safe="/:@"))
            assert other in (verdict, frozenset()), (path, read)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/items/%61ll",
            "/items/a%6Cl",
            "/items/ALL",
            "/items/All",
            "/items/all.",
            "/items/all%20",
            "/items/all.json",
        ),
        *(
            "/items//all",
            "/items/all/",
            "/items/all;x=1",
            "/items/all%3Bx",
            "/items/%2561ll",
            "/items/..%2fitems%2fall",
        ),
        *("/items/1/files/.ci%2Fjobs%2Fa", "/items/1/files/.CI/jobs/a", "/items/1/files/.ci/%6Aobs/a"),
        *("/v1/x%3Apurge", "/v1/x:PURGE", "/items/%EF%BD%81ll", "/items/..%252f..%252fadmin", "/items/%252e%252e"),
    ],
)
def test_another_spelling_of_a_path_does_not_pass_by_a_wider_rule(path: str) -> None:
    assert scopes_of(path) == frozenset()


def test_a_slash_at_the_end_passes_where_every_path_of_the_service_has_one() -> None:
    sentry = STORE.model_copy(update={"trailing_slash": True})
    for path, scope in (("/items/every", "read"), ("/items/all", "admin"), ("/items/1/files/a", "read")):
        assert scopes_of(path + "/", sentry) == scopes_of(path, sentry) == scopes_of(path) == frozenset({scope})
        assert scopes_of(path + "/") == frozenset()
    for path in ("/items/all//", "/items//", "/items/all/%2f", "/items/all%2f", "/items/./", "/"):
        assert scopes_of(path, sentry) == frozenset()

    def path_at_service(path: str, provider: Provider) -> str | None:
        target = aim(read_target(f"/proxy/c/web{path}".encode()), provider, "c")
        return None if target is None else target.path

    assert (
        path_at_service("/items/all", sentry) == path_at_service("/items/all/", sentry) == "/items/all/"
    )  # as the service requires it
    assert path_at_service("/items/all", STORE) == "/items/all"
    with pytest.raises(ProxyRefused, match="ambiguous_path"):
        path_at_service("/items/all/", STORE)


def test_the_same_paths_written_plainly_are_judged_by_their_own_rules() -> None:
    for path, scope in (
        ("/items/all", "admin"),
        ("/items/every", "read"),
        ("/items/a%40b", "read"),
        ("/items/1/files/.ci/jobs/a.json", "admin"),
        ("/items/1/files/docs%2Freadme.md", "read"),  # an encoded slash, where any number of segments may follow
        ("/items/1/files/README.md", "read"),
        ("/v1/x:purge", "admin"),
        ("/v1/x", "read"),
        ("/items/%C3%A9", "read"),
    ):
        assert scopes_of(path) == frozenset({scope}), path


@given(st.text(min_size=1, max_size=12))
def test_what_a_tool_quotes_passes_or_is_refused_but_is_never_read_as_more_parts(text: str) -> None:
    path = f"/items/{quote(text, safe='')}"
    if scopes_of(path):
        assert path_problem(path) is None
        assert "/" not in unicodedata.normalize("NFKC", text) and "%" not in text and ";" not in text


async def test_a_tool_argument_that_would_climb_out_of_its_place_is_refused_and_nothing_is_sent(tmp_path: Path) -> None:
    scopes = frozenset({"https://www.googleapis.com/auth/calendar.events.readonly"})
    async with room(tmp_path) as place:
        agent = await place.agent("alice")
        await place.connect(agent, "google", scopes=scopes)
        sent = len(place.simulator.books()["api_calls"])
        async with place.client(agent) as client:
            for calendar in (
                "..%252f..%252fadmin",
                "..%2f..%2fadmin",
                "%2e%2e",
                "x;y",
                "a\\b",
                "\uff0e\uff0e",
                "x/../y",
            ):
                answer = await client.call_tool("calendar_list", {"calendar_id": calendar})
                assert answer.is_error, calendar
            assert len(place.simulator.books()["api_calls"]) == sent
            twin = await client.call_tool("calendar_list", {"calendar_id": "primary"})
            assert not twin.is_error, twin
        assert len(place.simulator.books()["api_calls"]) > sent


@pytest.mark.parametrize(
    ("name", "api", "repeated", "path"),
    [
        ("notion", "main", "/v1", "/pages/1"),  # @notionhq/client 5, notion-client 3
        ("digitalocean", "main", "/v2", "/droplets/1"),  # pydo 0.44
        ("microsoft", "graph", "/v1.0", "/me/messages"),  # @microsoft/microsoft-graph-client 3
        ("stripe-connect", "main", "/v1", "/customers/1"),  # stripe 16
        ("stripe-apps", "main", "/v1", "/customers/1"),
        ("gitlab", "main", "/api/v4", "/projects/1"),  # python-gitlab 8
    ],
)
def test_a_path_that_the_services_sdk_adds_to_any_address_is_the_apis_own(
    name: str, api: str, repeated: str, path: str
) -> None:
    provider = load_catalog().provider(name)
    assert provider.apis[api].endswith(repeated)

    def target_of(below: str) -> Target | None:
        return aim(read_target(f"/proxy/c/{api}{below}".encode()), provider, "c")

    assert target_of(repeated + path) == target_of(path) == Target("c", api, path)
    for other in (f"{repeated}x{path}", f"/beta{path}", repeated):
        assert target_of(other) == Target("c", api, other)
