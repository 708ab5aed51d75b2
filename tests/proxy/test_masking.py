"""Strings in a stream are replaced, wherever the chunks are cut."""

from __future__ import annotations

import itertools
import random
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.api.masking import Replacer, needles
from tests.support.models import masking_model

SECRET = "xoxp-1/2=abab"


def through(replacer: Replacer, pieces: list[bytes]) -> bytes:
    return b"".join([*(replacer.feed(piece) for piece in pieces), replacer.finish()])


@given(
    st.lists(st.sampled_from([SECRET.encode(), b"xoxp", b"ab", b"abab", b"xoxp-1/2=ab", b"\x00", b"y"]), max_size=8),
    st.lists(st.integers(0, 80), max_size=8),
)
def test_where_the_pieces_are_cut_changes_nothing(parts: list[bytes], cuts: list[int]) -> None:
    body = b"".join(parts)
    places = sorted({0, len(body), *(cut for cut in cuts if cut <= len(body))})
    pieces = [body[a:b] for a, b in itertools.pairwise(places)]
    masked = through(Replacer(needles(SECRET)), pieces)
    assert masked == Replacer(needles(SECRET)).whole(body)
    assert SECRET.encode() not in masked
    assert len(masked) == len(body)


@given(st.text(alphabet="ab", min_size=1, max_size=4), st.text(alphabet="abc", max_size=30), st.data())
def test_strings_that_repeat_themselves_are_found_at_every_cut(needle: str, text: str, data: st.DataObject) -> None:
    replacements = {needle.encode(): b"#"}
    cut = data.draw(st.integers(0, len(text)))
    pieces = [text[:cut].encode(), text[cut:].encode()]
    assert through(Replacer([], replacements), pieces) == text.replace(needle, "#").encode()


def test_every_spelling_of_a_secret_is_masked() -> None:
    replacer = Replacer(needles(SECRET))
    for spelling in (SECRET, "xoxp-1%2F2%3Dabab", "xoxp-1\\/2=abab", "xoxp-1/2\\u003dabab"):
        assert replacer.whole(f'["{spelling}"]'.encode()) == f'["{"*" * len(spelling)}"]'.encode()
        assert replacer.text(f"x={spelling}") == f"x={'*' * len(spelling)}"


def test_what_cannot_be_a_beginning_is_not_held_back() -> None:
    replacer = Replacer([b"secret"])
    assert replacer.feed(b"data: 1\n\n") == b"data: 1\n\n"
    assert replacer.feed(b"data: sec") == b"data: "
    assert replacer.feed(b"ond") == b"second"
    assert replacer.finish() == b""


SPELLINGS = [
    lambda one: one,
    lambda one: f"%{ord(one):02x}",
    lambda one: f"%{ord(one):02X}",
    lambda one: f"%25{ord(one):02X}",
    lambda one: f"\\u{ord(one):04x}",
    lambda one: f"\\u{ord(one):04X}",
    lambda one: f"\\\\u{ord(one):04x}",
    lambda one: f"\\x{ord(one):02x}",
    lambda one: f"&#{ord(one)};",
    lambda one: f"&#x{ord(one):X};",
]


@given(
    st.lists(st.sampled_from(SPELLINGS), min_size=len(SECRET), max_size=len(SECRET)),
    st.text(alphabet='x\\u0%2&#;"', max_size=8),
    st.lists(st.integers(0, 200), max_size=6),
)
def test_a_secret_with_any_letter_escaped_is_masked_wherever_the_pieces_are_cut(
    spell: list[Callable[[str], str]], before: str, cuts: list[int]
) -> None:
    spelled = "".join(one(letter) for one, letter in zip(spell, SECRET, strict=True)).encode()
    body = f"{before} ".encode() + spelled + b'"}'
    places = sorted({0, len(body), *(cut for cut in cuts if cut <= len(body))})
    masked = through(Replacer(needles(SECRET)), [body[a:b] for a, b in itertools.pairwise(places)])
    assert masked == f"{before} ".encode() + b"*" * len(spelled) + b'"}'


@given(st.binary(max_size=7), st.binary(max_size=7), st.sampled_from([b64encode, urlsafe_b64encode]))
def test_a_secret_inside_base64_is_masked_at_every_offset(
    before: bytes, after: bytes, encode: Callable[[bytes], bytes]
) -> None:
    secret = "gho_16C7e42F292c6912E7710c838347Ae178B4a"
    masked = Replacer(needles(secret)).whole(b'{"x":"' + encode(before + secret.encode() + after) + b'"}')
    letters = masked[6:-2]
    assert b"*" * (len(secret) * 8 // 6 - 2) in letters
    kept = encode(before + bytes(len(secret)) + after)  # the twin: bytes outside the secret stay
    assert letters[: len(before) // 3 * 4] == kept[: len(before) // 3 * 4]


LONG = "gho_16C7e42F292c6912E7710c838347Ae178B4a"
BREAKS = (
    *("\n", "\r\n", "\r", "\n ", " \n", "\r\n\t", "=\n", "=\r\n"),
    *("\\n", "\\r\\n", "\\\\n", "\\u000a", "\\u000D\\u000A", "%0A", "%0d%0a", "%250A", "&#10;", "&#xD;&#xA;"),
    *("\\\\u000a", "\\\\r\\\\n", "\\u000d\\n", "&#13;&#10;"),
)


def in_lines(letters: bytes, width: int, line_break: str) -> bytes:
    """Break lines as MIME (RFC 2045 §6.8), PEM and others break long data."""
    return line_break.encode().join(letters[at : at + width] for at in range(0, len(letters), width))


@given(
    st.binary(max_size=80),
    st.binary(max_size=80),
    st.sampled_from([b64encode, urlsafe_b64encode]),
    st.sampled_from([4, 16, 60, 64, 76]) | st.integers(1, 80),
    st.sampled_from(BREAKS),
    st.lists(st.integers(0, 900), max_size=8),
)
def test_a_secret_inside_base64_in_lines_is_masked_wherever_the_pieces_are_cut(
    before: bytes, after: bytes, encode: Callable[[bytes], bytes], width: int, line_break: str, cuts: list[int]
) -> None:
    letters = in_lines(encode(before + LONG.encode() + after), width, line_break)
    body = b'{"content":"' + letters + b'"}'
    places = sorted({0, len(body), *(cut for cut in cuts if cut <= len(body))})
    masked = through(Replacer(needles(LONG)), [body[a:b] for a, b in itertools.pairwise(places)])
    assert len(masked) == len(body)
    whole = b64encode(LONG.encode())
    assert masked.count(b"*") >= len(whole) - 4
    shown = in_lines(encode(before + bytes(len(LONG)) + after), width, line_break)  # the twin: everything else stays
    first, last = len(before) // 3 * 4, (len(before) + len(LONG)) // 3 * 4 + 4
    start, end = (at + at // width * len(line_break) for at in (first, last))
    assert masked[12 : 12 + start - len(line_break)] == shown[: start - len(line_break)] or start < len(line_break)
    assert masked[12 + end + len(line_break) : -2] == shown[end + len(line_break) :]


@given(
    st.lists(
        st.sampled_from(
            [LONG[:20], LONG[20:], LONG, "\n", "\r\n", "\\n", "\n\n", "=", "%0A", " ", "x", LONG[:1], "\\"]
        ),
        max_size=10,
    ),
    st.lists(st.integers(0, 300), max_size=8),
)
def test_what_is_in_lines_is_masked_in_pieces_as_it_is_in_one(parts: list[str], cuts: list[int]) -> None:
    body = "".join(parts).encode()
    places = sorted({0, len(body), *(cut for cut in cuts if cut <= len(body))})
    masked = through(Replacer(needles(LONG)), [body[a:b] for a, b in itertools.pairwise(places)])
    assert masked == Replacer(needles(LONG)).whole(body)


def test_line_breaks_hold_nothing_back_and_join_nothing_that_is_apart() -> None:
    replacer = Replacer(needles(LONG))
    assert replacer.feed(b"data: 1\n\n") == b"data: 1\n\n"
    assert replacer.feed(b"data: g\n\n") == b"data: g\n\n"  # a blank line ends the event
    assert replacer.feed(b"data: g\n") == b"data: "  # this might continue
    assert replacer.finish() == b"g\n"
    apart = f"{LONG[:20]}\n\n{LONG[20:]}".encode()
    assert replacer.whole(apart) == apart
    assert replacer.whole(apart.replace(b"\n\n", b"\n")) == b"*" * (len(apart) - 1)  # the twin
    short = Replacer(needles("abcdefgh"))  # a short string may occur by chance
    assert short.whole(b"abcd\nefgh abcdefgh") == b"abcd\nefgh ********"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*SPELLINGS, *SPELLINGS[:1] * 10, lambda one: f"\\{one}", lambda _: "", lambda _: "%"]),
            st.sampled_from([*BREAKS, *[""] * 40, "\n\n", '"', "\\", "\\u0025", "&#37;", "%25"]),
        ),
        min_size=len(LONG),
        max_size=len(LONG),
    ),
    st.sampled_from([LONG, LONG.replace("c", "n").replace("E", "/"), "n%41b/r\\t-uu=&#65;x"]),
    st.sampled_from(["", "abc\\n" * 900, "abc\\u000a" * 500, "%0Aab" * 900, 'ab\\"' * 1100]),
)
def test_a_quick_look_masks_what_an_exact_one_does(
    spelled: list[tuple[Callable[[str], str], str]], secret: str, before: str
) -> None:
    """Before a secret, there is so much other text that its escapes decide how to search."""
    letters = "".join(spell(letter) + after for letter, (spell, after) in zip(secret, spelled, strict=False))
    body = (before + letters).encode()
    replacer = Replacer(needles(secret))
    exact = replacer.whole(body + b'"\n\n"' + secret.encode())  # escapes that a quick look can't rule out
    assert exact[: len(body)] == replacer.whole(body)
    assert exact.endswith(b"*" * len(secret))


@pytest.mark.parametrize("end", [one for one in BREAKS if len(one) > 3])
@pytest.mark.parametrize("before", ["", "abc\\u000a", "abc%0A", "abc\\n"])
def test_a_letter_after_a_break_is_no_part_of_it(end: str, before: str) -> None:
    """Without the break, the backslashes before it and this letter would form another escape."""
    secret = "ghp_nrnrnnrr0123nrtnrt"
    replacer = Replacer(needles(secret))
    for at in range(1, len(secret)):
        masked = replacer.whole(f"{before}{secret[:at]}{end}{secret[at:]}".encode())
        assert masked == before.encode() + b"*" * (len(secret) + len(end)), (at, masked)


@pytest.mark.parametrize("end", ["\\u000a", "\\u000D\\u000A", "\\n", "\\r\\n", "%0A", "&#10;", "\\\\n", "\n"])
@given(st.integers(0, 8_000), st.integers(4, 80), st.integers(1, 12_000))
@settings(max_examples=10)
def test_a_secret_in_a_large_body_in_lines_is_masked(end: str, at: int, width: int, cut: int) -> None:
    letters = ("abcdefgh" * 1000)[:at] + LONG + "x" * 2000
    body = in_lines(letters.encode(), width, end)
    masked = through(Replacer(needles(LONG)), [body[:cut], body[cut:]])
    assert len(masked) == len(body)
    assert len(LONG) <= masked.count(b"*") <= len(LONG) * (1 + len(end))
    assert Replacer(needles(LONG)).whole(body) == masked
    apart = body.replace(b"x", b"y").replace(LONG[:1].encode(), b"z")  # the twin
    assert Replacer(needles(LONG)).whole(apart) == apart


EDGES = (
    "\\u000a",
    "\\u000D",
    "\\n",
    "\\r",
    "\\",
    "\\\\",
    "%",
    "%0",
    "%25",
    "&#1",
    "&#10;",
    "\\u00",
    "\\u0041",
    "n",
    "",
)
AROUND = (
    *("", "abc\\n" * 300, "abc\\u000d\\u000a" * 120, "%0D%0Aab" * 200, "ab\\/" * 300, "&#13;&#10;a" * 120),
    *("Gr\\u00fc\\u00dfe " * 100, "\\u003cb\\u003e" * 100, "abc\n" * 300, "\\\\u000aab" * 150),
)

SECRETS = (
    *(LONG, LONG.replace("c", "n").replace("E", "/"), "n%41b/r\\t-uu=&#65;x", "0123456789abcdef0a0d09"),
    *("nrtnrt0123nnrr", "ghp_nrnrnnrr0123nrtnrt", SECRET),
)


def body_with(secret: str, chance: random.Random) -> bytes:
    """A body that repeats this secret in some form: escaped, in base64, in lines, or hardly at all."""
    shown, escaped, broken = secret, chance.choice((0.0, 0.02, 0.1, 0.5, 1.0)), chance.choice((0.0, 0.02, 0.1, 0.3))
    if chance.random() < 0.4:
        before = chance.randbytes(chance.randrange(4))
        shown = chance.choice((b64encode, urlsafe_b64encode))(before + secret.encode() + b"xyz").decode()
    spoiled, kinds = chance.choice((0.0, 0.0, 0.01)), chance.choice((SPELLINGS, [chance.choice(SPELLINGS)]))
    parts = list[str]()
    for letter in shown:
        spell = chance.choice(kinds) if chance.random() < escaped else SPELLINGS[0]
        parts.append(chance.choice(("", f"\\{letter}")) if chance.random() < spoiled else spell(letter))
        parts.append(chance.choice(BREAKS) if chance.random() < broken else "")
        parts.append(chance.choice(("\n\n", '"', "\\", "&#37;", "%25")) if chance.random() < spoiled else "")
    before, behind = chance.choice(AROUND), chance.choice(AROUND)
    return (before + chance.choice(EDGES) + "".join(parts) + chance.choice(EDGES) + behind).encode()


@pytest.mark.parametrize("seed", range(4))
def test_masking_finds_what_a_slow_plain_reader_finds(seed: int) -> None:
    chance, found = random.Random(seed), 0
    for _ in range(30):
        secret = chance.choice(SECRETS)
        body = body_with(secret, chance)
        expected = masking_model.mask(body, secret)
        found += expected != body
        places = sorted({0, len(body), *(chance.randrange(len(body) + 1) for _ in range(chance.randrange(5)))})
        pieces = [body[a:b] for a, b in itertools.pairwise(places)]
        assert Replacer(needles(secret)).whole(body) == expected, (secret, body)
        assert through(Replacer(needles(secret)), pieces) == expected, (secret, body, places)
    assert 15 < found < 30, "both kinds"
