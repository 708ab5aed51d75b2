"""What is replaced in a stream is replaced wherever the pieces were cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from server.proxy.masking import Replacer, mask_of

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
    masked = through(Replacer(mask_of(SECRET)), pieces)
    assert masked == Replacer(mask_of(SECRET)).whole(body)
    assert SECRET.encode() not in masked
    assert len(masked) == len(body)


@given(st.text(alphabet="ab", min_size=1, max_size=4), st.text(alphabet="abc", max_size=30), st.data())
def test_strings_that_repeat_themselves_are_found_at_every_cut(needle: str, text: str, data: st.DataObject) -> None:
    replacements = {needle.encode(): b"#"}
    cut = data.draw(st.integers(0, len(text)))
    pieces = [text[:cut].encode(), text[cut:].encode()]
    assert through(Replacer(replacements), pieces) == text.replace(needle, "#").encode()


def test_every_spelling_of_a_secret_is_masked() -> None:
    replacer = Replacer(mask_of(SECRET))
    for spelling in (SECRET, "xoxp-1%2F2%3Dabab", "xoxp-1\\/2=abab", "xoxp-1/2\\u003dabab"):
        assert replacer.whole(f'["{spelling}"]'.encode()) == f'["{"*" * len(spelling)}"]'.encode()
        assert replacer.text(f"x={spelling}") == f"x={'*' * len(spelling)}"


def test_what_cannot_be_a_beginning_is_not_held_back() -> None:
    replacer = Replacer({b"secret": b"******"})
    assert replacer.feed(b"data: 1\n\n") == b"data: 1\n\n"
    assert replacer.feed(b"data: sec") == b"data: "
    assert replacer.feed(b"ond") == b"second"
    assert replacer.finish() == b""
