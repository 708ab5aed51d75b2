"""Members of answers that carry a credential are masked, whole and in a stream; everything else stays as it is."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from providers.api.api import UpstreamAPI, UpstreamRefused
from providers.api.masked_members import MemberMask, UnreadableAnswer, masked_names, may_have_members
from providers.definitions.catalog import load_catalog, read_provider, shipped_files
from providers.definitions.member_masks import MaskedMembers
from providers.definitions.model import Provider
from providers.outbound.addresses import AddressPolicy
from providers.outbound.client import Outbound
from providers.outbound.json_values import is_array, is_object
from tests.support.doubles.proxied_api import Upstream, reply_in_pieces
from tests.support.doubles.scripted_server import Reply, scripted_server
from tests.support.rooms.proxy_room import ProxyHandle, ProxyRoom, proxy_room

NAMES = frozenset({"client_secret", "@microsoft.graph.downloadUrl"})
JSON = (b"content-type", b"application/json")
URL = "https://files.example/download?tempauth=canary"
READ = frozenset({"Files.Read"})


def through(mask: MemberMask, body: bytes, cuts: Sequence[int]) -> bytes:
    places = sorted({0, len(body), *(cut for cut in cuts if cut <= len(body))})
    return b"".join([*(mask.feed(body[a:b]) for a, b in itertools.pairwise(places)), mask.finish()])


TEXTS = st.text(alphabet='ab"\\/{}[]:,\n é\u2028', max_size=6) | st.sampled_from(sorted(NAMES))
VALUES = st.recursive(
    TEXTS | st.none() | st.booleans() | st.integers(-20, 20) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.sampled_from(sorted(NAMES)), inner, max_size=4)
    ),
    max_leaves=12,
)


def value_with_masks(value: object, *, is_masked: bool = False) -> object:
    """The value as the client must get it, with texts below masked members as their lengths don't matter here."""
    if is_object(value):
        if is_masked:
            return [value_with_masks(one, is_masked=True) for one in value.values()]
        return {name: value_with_masks(one, is_masked=name in NAMES) for name, one in value.items()}
    if is_array(value):
        return [value_with_masks(one, is_masked=is_masked) for one in value]
    return "*" if is_masked and isinstance(value, str) else value


def value_with_short_masks(value: object, *, is_masked: bool = False) -> object:
    """What arrived, with each mask as one letter."""
    if is_object(value):
        if is_masked:
            assert all(set(name) <= {"*"} for name in value), "names below a masked member are masked, too"
            return [value_with_short_masks(one, is_masked=True) for one in value.values()]
        return {name: value_with_short_masks(one, is_masked=name in NAMES) for name, one in value.items()}
    if is_array(value):
        return [value_with_short_masks(one, is_masked=is_masked) for one in value]
    if is_masked and isinstance(value, str):
        assert set(value) <= {"*"}
        return "*"
    return value


def written_size(name: str, ascii_only: Sequence[bool]) -> int:
    """The bytes of a name in JSON inside texts of JSON, each written with only ASCII or not."""
    for is_ascii in ascii_only:
        name = json.dumps(name, ensure_ascii=is_ascii)[1:-1]
    return len(name.encode())


def has_distinct_names(value: object, ascii_only: Sequence[bool], *, is_masked: bool = False) -> bool:
    """Whether no two names of an object below a masked member have the same length, which a parser would merge."""
    if is_object(value):
        sizes = [written_size(name, ascii_only) for name in value]
        return (not is_masked or len(set(sizes)) == len(sizes)) and all(
            has_distinct_names(one, ascii_only, is_masked=is_masked or name in NAMES) for name, one in value.items()
        )
    return all(has_distinct_names(one, ascii_only, is_masked=is_masked) for one in value) if is_array(value) else True


@given(VALUES, st.booleans(), st.sampled_from([None, 2]), st.lists(st.integers(0, 400), max_size=6), st.integers(0, 2))
@example({"client_secret": {':""': "", '::::"\n': None}}, False, None, [], 2)  # both names are 17 bytes there
def test_only_the_texts_below_masked_members_change(
    value: object, is_ascii: bool, indent: int | None, cuts: list[int], inside: int
) -> None:
    if not has_distinct_names(value, [*[is_ascii] * inside, False]):
        return
    content = value
    for _ in range(inside):  # JSON inside a text of JSON
        content = {"body": json.dumps(content, ensure_ascii=is_ascii)}
    body = json.dumps(content, ensure_ascii=False, indent=indent).encode()
    masked = MemberMask(NAMES).whole(body)
    assert len(masked) == len(body)
    assert through(MemberMask(NAMES), body, cuts) == masked
    if inside == 0:
        assert value_with_short_masks(json.loads(masked)) == value_with_masks(value)
        return
    found = json.loads(masked)
    for _ in range(inside):
        found = json.loads(found["body"])
    if is_ascii or body.isascii():
        assert value_with_short_masks(found) == value_with_masks(value)


@pytest.mark.parametrize(
    "name",
    [
        "client_secret",
        "client\\u005fsecret",
        "\\u0063lient_secre\\u0074",
        "".join(f"\\u{ord(one):04X}" for one in "client_secret"),
    ],
)
@pytest.mark.parametrize("between", [":", " : ", "\n:\n\t", ":" + " " * 5000])
def test_a_name_is_found_in_every_spelling(name: str, between: str) -> None:
    body = f'{{"{name}"{between}"canary"}}'.encode()
    for cut in range(len(body)):
        mask = MemberMask(NAMES)
        masked = through(mask, body, [cut])
        assert masked == body.replace(b"canary", b"******"), cut
        assert mask.found == {"client_secret"}


@pytest.mark.parametrize(
    "body",
    [
        '{"type":"client_secret","client":"secret"}',
        '{"client_secret_id":"canary","Xclient_secret":"canary"}',
        '{"client_secret":null,"a":"canary"}',
        '{"client_secret":17,"a":"canary"}',
        '{"a":["client_secret","canary"]}',
        '{"a\\"client_secret":"canary"}',
        '{"client_secret',
        '{"client_secret"',
    ],
)
def test_what_is_no_such_member_stays(body: str) -> None:
    mask = MemberMask(NAMES)
    assert through(mask, body.encode(), range(len(body))) == body.encode()
    assert not mask.found


@pytest.mark.parametrize("text", ["client_secret", "x"])
def test_a_name_is_found_after_a_text_that_reads_like_one(text: str) -> None:
    body = json.dumps({"note": f'{text}"client_secret":"canary"'}).encode()
    assert MemberMask(NAMES).whole(body) == body.replace(b"canary", b"******")


@pytest.mark.parametrize("start", ["", "data: ", '{"a":1}\n'])
def test_lines_of_json_and_events_are_searched_without_being_held_back(start: str) -> None:
    mask = MemberMask(NAMES)
    line = (start + '{"id":"evt","client_secret":"canary","x":"y"}\n\n').encode()
    for _ in range(3):
        assert mask.feed(line) == line.replace(b"canary", b"******")
    assert mask.feed(b'"client_') == b""  # this may continue
    assert mask.feed(b'id":"x"}') == b'"client_id":"x"}'
    assert mask.feed(b'"client_secret":"cana') == b'"client_secret":"****'
    assert mask.finish() == b""


HOSTILE = {
    "backslashes": (b"", b"\\"),
    "backslashes in a text": (b'{"client_secret":"', b"\\"),
    "backslashes in an object": (b'{"client_secret":{', b"\\"),
    "quotes": (b"", b'"'),
    "escaped quotes in a text": (b'{"client_secret":"', b'\\"'),
    "long runs before quotes": (b"", b'"' + b"\\" * 500),
    "names": (b"", b'"client_secret"'),
    "names of members": (b"", b'"client_secret":'),
    "beginnings of names": (b"", b'"client_secre'),
    "escaped letters": (b'"', b"\\u0063"),
    "a long name": (b'"', b"c"),
    "texts in an array": (b'{"client_secret":[', b'"c",'),
    "a deep array": (b'{"client_secret":', b"["),
    "a member in each other": (b"", b'{"client_secret":'),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_time_and_memory_grow_with_the_length_of_hostile_content(kind: str) -> None:
    """Eight times the content takes about eight times the time: a square would be 64 times."""
    start, part = HOSTILE[kind]

    def seconds(size: int, step: int) -> float:
        content = part * (size // len(part))
        pieces = [content[at : at + step] for at in range(0, len(content), step)]
        mask = MemberMask(NAMES)
        held = len(start) - len(mask.feed(start))
        began = time.thread_time()
        for piece in pieces:
            held += len(piece) - len(mask.feed(piece))
            assert held <= mask.most_held < 500
        return time.thread_time() - began

    for step in (1000, 2**17):
        short = min(seconds(2**14, step) for _ in range(3))
        assert seconds(2**17, step) < 24 * short + 0.05, step


@given(
    st.lists(
        st.sampled_from(
            [
                *(b"\\" * count for count in (1, 2, 3, 7, 8, 9, 16, 33)),
                *(level + b'"client_secret' + level + b'"' for level in (b"", b"\\", b"\\" * 3, b"\\" * 7)),
                *(b'"', b":", b" ", b"{", b"}", b"[", b"]", b",", b"x", b'"client_se', b"c", b"\\u0063"),
                *(b'"client_secret":"', b'\\"client_secret\\":\\"', b'"client_secret":{"'),
            ]
        ),
        max_size=14,
    ).map(b"".join),
    st.lists(st.integers(0, 200), max_size=8) | st.just(range(400)),
)
def test_pieces_of_any_content_are_masked_like_the_whole(body: bytes, cuts: Sequence[int]) -> None:
    whole, mask = MemberMask(NAMES), MemberMask(NAMES)
    expected = whole.whole(body)
    assert through(mask, body, cuts) == expected
    assert mask.found == whole.found
    assert len(expected) == len(body)


@pytest.mark.parametrize("run", range(40))
def test_a_quote_ends_a_text_by_the_number_of_backslashes_before_it(run: int) -> None:
    for level in (0, 1, 3):
        quote = b"\\" * level + b'"'
        body = quote + b"client_secret" + quote + b":" + quote + b"x" + b"\\" * run + b'"shown'
        is_end = run < level or (run - level) % (2 * level + 2) == 0
        masked = MemberMask(NAMES).whole(body)
        assert masked.endswith(b"shown") is is_end
        assert masked == through(MemberMask(NAMES), body, range(len(body)))


@pytest.mark.parametrize(("size", "are_others_run"), [(1000, False), (1_000_000, True)])
async def test_other_tasks_run_while_a_long_piece_is_masked(size: int, are_others_run: bool) -> None:
    ran = 0

    async def other() -> None:
        nonlocal ran
        while True:
            ran += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    body = b'{"client_secret":"' + b"\\" * size + b'"}'
    assert await MemberMask(NAMES).whole_in_turns(body) == body.replace(b"\\", b"*")
    assert (ran > 50) is are_others_run
    task.cancel()


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        *((kind, True) for kind in ("application/json; charset=utf-8", "application/vnd.api+json", "text/plain", "")),
        *((kind, True) for kind in ("text/event-stream", "application/x-ndjson", "text/javascript;charset=ISO-8859-1")),
        *((kind, False) for kind in ("image/png", "text/csv", "application/octet-stream", "application/pdf")),
        *((kind, None) for kind in ("application/xml", "text/xml", "application/atom+xml", "application/x-yaml")),
        *((kind, None) for kind in ("application/json; charset=utf-16", 'application/json; Charset="UTF-32"')),
    ],
)
def test_the_type_of_an_answer_decides_whether_it_is_searched(kind: str, found: bool | None) -> None:
    assert may_have_members(kind) is found


def provider_with(*entries: Mapping[str, object]) -> Provider:
    made = tuple(MaskedMembers.model_validate(one) for one in entries)
    return load_catalog().provider("microsoft").model_copy(update={"masked": made})


@pytest.mark.parametrize(
    ("entry", "path", "scopes", "is_masked"),
    [
        ({}, "/me/drive/items/1", {"Files.Read"}, True),
        ({"shown_to": ["Files.ReadWrite"]}, "/me/drive/items/1", {"Files.Read"}, True),
        ({"shown_to": ["Files.Read"]}, "/me/drive/items/1", {"Files.Read"}, False),
        ({"shown_to": ["Files.Read"]}, "/me/drive/items/1", {"Files.ReadWrite"}, False),  # which covers it
        ({"paths": ["/me/drive/{+}"]}, "/me/drive/items/1", {"Files.Read"}, True),
        ({"paths": ["/me/drive/{+}"]}, "/ME/Drive/items/1", {"Files.Read"}, True),  # as a lenient host reads it
        ({"paths": ["/me/drive/{+}"]}, "/me/messages", {"Files.Read"}, False),
    ],
)
def test_path_and_scopes_decide_whether_a_member_is_masked(
    entry: Mapping[str, object], path: str, scopes: set[str], is_masked: bool
) -> None:
    provider = provider_with({"members": ["url"], **entry})
    found = masked_names(provider, frozenset(scopes), api="graph", method="GET", path=path, content_type="")
    assert (found is not None and found.names == {"url"}) is is_masked


def test_an_answer_in_which_a_member_cannot_be_found_is_refused() -> None:
    call = {"api": "graph", "method": "GET", "path": "/me/drive/items/1"}
    with pytest.raises(UnreadableAnswer):
        masked_names(provider_with({"members": ["url"]}), READ, **call, content_type="text/xml")
    shown = provider_with({"members": ["url"], "shown_to": ["Files.Read"]})  # the twin
    assert masked_names(shown, READ, **call, content_type="text/xml") is None


@pytest.mark.parametrize(
    ("method", "path", "name", "is_masked"),
    [
        ("GET", "/things", "signing_secret", True),
        ("HEAD", "/things", "signing_secret", True),
        ("GET", "/things", "signingSecret", True),
        ("GET", "/things", "SigningSecret", True),
        ("GET", "/things", "signing-secret", True),
        ("GET", "/things", "secretary", False),
        ("POST", "/things", "signing_secret", False),  # returns what it created
    ],
)
def test_unread_answers_have_no_member_with_the_usual_name_of_a_credential(
    method: str, path: str, name: str, is_masked: bool
) -> None:
    open_, closed = load_catalog().provider("pingdom"), load_catalog().provider("slack")
    (api,) = open_.apis
    found = masked_names(open_, open_.all_scopes, api=api, method=method, path=path, content_type="")
    assert (found is not None and name in found.names) is is_masked
    assert found is None or str(found) == "credentials"
    xml = masked_names(open_, open_.all_scopes, api=api, method=method, path=path, content_type="text/xml")
    assert xml is None, "nobody said that there must be one"
    assert masked_names(closed, closed.all_scopes, api="web", method=method, path="/x", content_type="") is None


# Through the proxy


@pytest.fixture(scope="module")
async def graph(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ProxyRoom]:
    others = {"microsoft": "graph", "stripe-apps": "main", "gumroad": "main", "github": "rest"}
    async with proxy_room(
        tmp_path_factory.mktemp("masked"),
        apis_at=upstream.url,
        others=others,
        settings={"gumroad": {"unruled_calls": "read"}},
    ) as room:
        yield room


async def handle(room: ProxyRoom, provider: str, *scopes: str, granted: frozenset[str]) -> ProxyHandle:
    agent = await room.agent()
    connection = await room.account(
        agent, provider=provider, name=f"{provider}-1", scopes=granted, delegated=frozenset(scopes)
    )
    return await room.handle(agent, connection, scopes=frozenset(scopes))


ITEM = {"id": "1", "name": "a.txt", "@microsoft.graph.downloadUrl": URL, "webUrl": "https://files.example/a.txt"}


@pytest.mark.parametrize("way", ["whole", "chunked", "in pieces", "gzip", "a list behind 70 KB", "an error"])
async def test_the_address_of_a_files_content_does_not_get_out(upstream: Upstream, graph: ProxyRoom, way: str) -> None:
    body = json.dumps([" " * 70_000, ITEM] if "70" in way else ITEM).encode()
    headers = [JSON]
    match way:
        case "whole":
            headers.append((b"content-length", str(len(body)).encode()))
            pieces = [body]
        case "gzip":
            headers.append((b"content-encoding", b"gzip"))
            pieces = [gzip.compress(body)]
        case "in pieces":
            pieces = [body[at : at + 1] for at in range(len(body))]
        case _:
            pieces = [body]
    upstream.answer = reply_in_pieces(*pieces, status=404 if way == "an error" else 200, headers=headers)
    one = await handle(graph, "microsoft", "Files.Read", granted=READ)
    answer = await one.call("GET", "/me/drive/items/1", api="graph")
    assert "canary" not in answer.text
    assert answer.content == body.replace(URL.encode(), b"*" * len(URL))
    assert answer.headers["token-vault-masked"] == "@content.downloadUrl, @microsoft.graph.downloadUrl, thumbnails"
    assert answer.headers.get("content-length", str(len(body))) == str(len(body))
    (event,) = await graph.events(one)
    assert event.details["masked"] == ["@microsoft.graph.downloadUrl"]
    assert "canary" not in json.dumps(event.details)


async def test_an_answer_without_such_a_member_passes_unchanged(upstream: Upstream, graph: ProxyRoom) -> None:
    body = json.dumps({"note": f"@microsoft.graph.downloadUrl is {URL}"}).encode()
    upstream.answer = reply_in_pieces(body, headers=[JSON])
    one = await handle(graph, "microsoft", "Files.Read", granted=READ)
    assert (await one.call("GET", "/me/drive/items/1", api="graph")).content == body
    (event,) = await graph.events(one)
    assert "masked" not in event.details


async def test_a_provider_cannot_say_that_something_was_masked(upstream: Upstream, graph: ProxyRoom) -> None:
    upstream.answer = reply_in_pieces(b"{}", headers=[(b"token-vault-masked", b"lie")])
    one = await handle(graph, "microsoft", "Files.Read", granted=READ)
    answer = await one.call("GET", "/me/drive/items/1", api="graph")
    assert answer.headers.get_list("token-vault-masked") == [
        "@content.downloadUrl, @microsoft.graph.downloadUrl, thumbnails"
    ]


@pytest.mark.parametrize("kind", ["application/atom+xml", "application/json; charset=utf-16"])
async def test_a_form_in_which_it_cannot_be_found_is_refused(upstream: Upstream, graph: ProxyRoom, kind: str) -> None:
    upstream.answer = reply_in_pieces(b"x", headers=[(b"content-type", kind.encode())])
    one = await handle(graph, "microsoft", "Files.Read", granted=READ)
    answer = await one.call("GET", "/me/drive/items/1", api="graph")
    assert (answer.status_code, answer.headers["token-vault-refusal"]) == (502, "answer_unreadable")
    upstream.answer = reply_in_pieces(b"x", headers=[(b"content-type", b"text/plain")])  # the twin
    assert (await one.call("GET", "/me/drive/items/1", api="graph")).text == "x"


async def test_an_agent_without_the_named_scope_does_not_see_it(upstream: Upstream, graph: ProxyRoom) -> None:
    """The twin, an agent with the scope, is below: here, the person approves each of its calls."""
    body = b'{"id":"cus_1","client_secret":"canary","amount":5}'
    upstream.answer = reply_in_pieces(body, headers=[JSON])
    one = await handle(graph, "stripe-apps", "read", granted=frozenset({"read", "write"}))
    answer = await one.call("GET", "/customers/cus_1", api="main")
    assert answer.content == body.replace(b"canary", b"******")
    assert answer.headers["token-vault-masked"] == "client_secret"


async def test_reads_that_nobody_reviewed_show_no_usual_credential(upstream: Upstream, graph: ProxyRoom) -> None:
    upstream.answer = reply_in_pieces(b'{"webhook":{"secret":"canary","id":"w"}}', headers=[JSON])
    one = await handle(graph, "gumroad", "any:read", granted=frozenset({"view_profile"}))
    answer = await one.call("GET", "/webhooks/1", api="main")
    assert answer.text == '{"webhook":{"secret":"******","id":"w"}}'
    assert answer.headers["token-vault-masked"] == "credentials"


def test_every_file_of_one_service_masks_the_same_members() -> None:
    shipped = [read_provider(path) for path in shipped_files()]
    files = [one for one in shipped if any(base.startswith("https://api.github.com") for base in one.apis.values())]
    assert {one.name for one in files} >= {"github", "github-app", "github-oauth-app"}
    for one in files:
        assert {name for mask in one.masked for name in mask.members} == {"temp_clone_token", "download_url"}, one.name


RAW_FILE = b"https://raw.githubusercontent.com/acme/plans/main/a%20b.md"
CONTENTS = "/repos/acme/plans/contents/a%20b.md"


def github_file(address: bytes) -> bytes:
    return b'{"name":"a?b.md","download_url":"' + address + b'","type":"file","_links":{"self":"https://x?ref=main"}}'


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (RAW_FILE + b"?token=canary&x=1", RAW_FILE + b"?" + b"*" * 16),
        (RAW_FILE, RAW_FILE),  # a public file's
        (b"https:\\/\\/x?token=canary", b"https:" + b"*" * 18),
        (b"https://x\\u003ftoken=canary", b"https://x" + b"*" * 18),
        (b"?", b"?"),
    ],
)
def test_of_an_address_only_the_query_is_masked(address: bytes, expected: bytes) -> None:
    body = github_file(address)
    mask = MemberMask({"download_url"}, addresses=frozenset({"download_url"}))
    assert mask.whole(body) == github_file(expected)
    assert mask.found == ({"download_url"} if b"*" in expected else set())
    for at in range(len(body)):
        again = MemberMask({"download_url"}, addresses=frozenset({"download_url"}))
        assert through(again, body, [at, at + 1]) == github_file(expected)
    nested = json.dumps({"inner": body.decode()}).encode()
    told = MemberMask({"download_url"}, addresses=frozenset({"download_url"})).whole(nested)
    assert b"canary" not in told
    below = b'{"download_url":["https://x?y"]}'  # not an address itself
    assert MemberMask({"download_url"}, addresses=frozenset({"download_url"})).whole(below) == below.replace(
        b"https://x?y", b"*" * 11
    )


def test_a_member_that_another_entry_masks_whole_is_masked_whole() -> None:
    entries = [{"members": ["url"], "only_query": True}, {"members": ["url"], "paths": ["/whole"]}]
    provider = load_catalog().provider("microsoft")
    provider = provider.model_copy(update={"masked": tuple(MaskedMembers.model_validate(one) for one in entries)})
    for path, expected in (("/whole", b'"url":"*******"'), ("/other", b'"url":"//x?***"')):
        found = masked_names(provider, READ, api="graph", method="GET", path=path, content_type="application/json")
        assert found is not None
        assert found.mask().whole(b'"url":"//x?y=z"') == expected


RAW = "application/vnd.github.raw+json; charset=utf-8"
HIDDEN = "download_url, temp_clone_token"


@pytest.mark.parametrize(
    ("kind", "is_masked"),
    [
        ("application/json; charset=utf-8", True),
        ("application/vnd.github.object+json", True),
        (RAW, False),
        ("application/vnd.github.v3.raw; charset=utf-8", False),
        ("Application/VND.GitHub.Raw", False),
    ],
)
async def test_the_token_in_the_address_of_a_private_file_is_masked_but_not_what_a_file_says(
    graph: ProxyRoom, upstream: Upstream, kind: str, *, is_masked: bool
) -> None:
    reads = frozenset({"contents:read", "metadata:read"})
    caller = await handle(graph, "github", *reads, granted=reads)
    body = github_file(RAW_FILE + b"?token=canary")
    upstream.answer = reply_in_pieces(body, headers=[(b"content-type", kind.encode())])
    answer = await caller.call("GET", CONTENTS, api="rest")
    assert answer.status_code == 200, answer.text
    assert answer.content == (github_file(RAW_FILE + b"?************") if is_masked else body)
    assert answer.headers["token-vault-masked"] == HIDDEN
    assert (await caller.call("GET", "/repos/acme/plans", api="rest")).content == body, "no file's address"


@pytest.mark.parametrize("end", ["/contents/a", "/readme"])
@pytest.mark.parametrize("space", [b"", b"\n "])
async def test_a_folders_list_is_masked_even_if_its_type_is_that_of_a_raw_file(
    graph: ProxyRoom, upstream: Upstream, end: str, space: bytes
) -> None:
    reads = frozenset({"contents:read", "metadata:read"})
    caller = await handle(graph, "github", *reads, granted=reads)
    body = space + b"[" + space + github_file(RAW_FILE + b"?token=canary") + b"]"
    for pieces in ([body], [body[at : at + 1] for at in range(len(body))]):
        upstream.answer = reply_in_pieces(*pieces, headers=[(b"content-type", RAW.encode())])
        answer = await caller.call("GET", "/repos/acme/plans" + end, api="rest")
        assert answer.content == body.replace(b"token=canary", b"*" * 12)


@pytest.mark.parametrize(("end", "is_file"), [("", False), ("/commits/main", False), ("/git/blobs/1a2b", True)])
async def test_only_calls_that_answer_with_files_answer_with_one_as_it_is(
    graph: ProxyRoom, upstream: Upstream, end: str, *, is_file: bool
) -> None:
    """Others can also be asked for `raw+json`, which is JSON there."""
    reads = frozenset({"contents:read", "metadata:read"})
    caller = await handle(graph, "github", *reads, granted=reads)
    body = b'{"repository":{"temp_clone_token":"canary"}}'
    upstream.answer = reply_in_pieces(body, headers=[(b"content-type", RAW.encode())])
    answer = await caller.call("GET", "/repos/acme/plans" + end, api="rest")
    assert answer.content == (body if is_file else body.replace(b"canary", b"******"))


@pytest.mark.parametrize(
    ("body", "is_list"),
    [
        (b'[{"download_url":"canary"}]', True),
        (b'\t[ \r\n{"a":1},{"download_url":"canary"}]', True),
        (b'[["download_url",{"download_url":"canary"}]]', False),
        (b'["a",{"download_url":"canary"}]', False),
        (b'{"a":[{"download_url":"canary"}]}', False),
        (b'x[{"download_url":"canary"}]', False),
        (b'[]{"download_url":"canary"}', False),
        (b"[ ", False),
        (b"", False),
    ],
)
def test_only_a_list_of_objects_is_searched_where_an_answer_may_be_a_file(body: bytes, *, is_list: bool) -> None:
    expected = body.replace(b"canary", b"******") if is_list else body
    assert MemberMask({"download_url"}, only_lists=True).whole(body) == expected
    assert through(MemberMask({"download_url"}, only_lists=True), body, range(len(body))) == expected


@pytest.mark.parametrize("name", ["github", "github-app", "github-oauth-app"])
def test_every_call_that_answers_with_the_address_of_a_file_is_named(name: str) -> None:
    """Some are reached only if the operator allows calls without a rule."""
    provider = load_catalog().provider(name)
    for place in ("/repos/acme/plans", "/repositories/42"):
        for end, is_named in (("/contents", True), ("/contents/a/b", True), ("/readme/a", True), ("/license", True),
                              ("/readme", True), ("", False), ("/issues/1", False)):  # fmt: skip
            call = {"api": "rest", "method": "GET", "path": place + end, "content_type": "application/json"}
            found = masked_names(provider, provider.all_scopes, **call)
            assert found is not None
            assert ("download_url" in found.names) is is_named, place + end


# In tools


@pytest.mark.parametrize("scope", ["read_only", "read_write"])
async def test_tools_do_not_see_it_either(scope: str) -> None:
    async with (
        scripted_server(
            lambda _: Reply(200, b'{"id":"1","client_secret":"canary"}', {"content-type": "application/json"})
        ) as server,
        Outbound(AddressPolicy(allow_loopback=True)) as outbound,
    ):
        provider = load_catalog().provider("stripe-connect").model_copy(update={"apis": {"main": server.url}})
        api = UpstreamAPI(provider, outbound, token="upstream-token-canary", scopes=frozenset({scope}), now=0)
        found = await api.get("main", "/charges/{}", segments=["ch_1"])
        assert found == {"id": "1", "client_secret": "canary" if scope == "read_write" else "******"}
        server.answer = lambda _: Reply(200, b"<a/>", {"content-type": "text/xml"})
        if scope == "read_only":
            with pytest.raises(UpstreamRefused):
                await api.get("main", "/charges/{}", segments=["ch_1"])
        else:
            assert await api.get("main", "/charges/{}", segments=["ch_1"]) == {"a": ""}
