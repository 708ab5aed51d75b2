"""No secret leaves the vault, whatever fails: an error at each await of an exchange, a refresh, a connection."""

from __future__ import annotations

import base64
import logging
from dataclasses import make_dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import Store
from tests.leaks.canaries import Canaries
from tests.leaks.flows import FLOWS
from tests.leaks.purposes import may_be_told
from tests.leaks.silence import ERRORS, check_silence
from tests.leaks.watch import Watch
from vault import spans
from vault.keys.sources.local import LocalKey
from vault.refusals import ConnectionRequired

SECRET = "xoxe.xoxp-1-0123456789abcdefghijklmnopqrstuvwxyz"
ODD = "a password with blanks & more"
WRITTEN = {
    "as it is": SECRET,
    "its first half": SECRET[:30],
    "its second half": SECRET[20:],
    "hex": SECRET.encode().hex(),
    "HEX": SECRET.encode().hex().upper(),
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64 after one letter": base64.b64encode(b"x" + SECRET.encode() + b"y").decode(),
    "base64 after two letters": base64.urlsafe_b64encode(b"xx" + SECRET.encode()).decode(),
    "in a JSON text": f'{{"access_token":"{SECRET}"}}',
    "in a URL": f"https://api.example/?token={SECRET}&x=1",
    "odd, as it is": f"<{ODD}>",
    "odd, URL-encoded": quote(ODD),
    "odd, in base64": base64.b64encode(b"z" + ODD.encode()).decode(),
}


@pytest.mark.requirement("V-08")
@pytest.mark.parametrize("written", list(WRITTEN.values()), ids=list(WRITTEN))
def test_a_secret_is_found_however_it_is_written(written: str) -> None:
    canaries = Canaries()
    assert not canaries.find(f"before {written} after", "a log")
    canaries.add("a token", SECRET)
    canaries.add("a password", ODD)
    (sighting,) = canaries.find(f"before {written} after", "a log")
    assert sighting.place == "a log"
    assert SECRET not in str(sighting)


@pytest.mark.parametrize(("end", "is_found"), [("", False), ("-" + SECRET, True)], ids=["filler", "secret"])
def test_the_filler_of_a_long_secret_is_found_nowhere_else(end: str, *, is_found: bool) -> None:
    canaries = Canaries()
    canaries.add("a long token", "x" * 2000 + end)
    assert not canaries.find("x" * 100, "a log")
    assert bool(canaries.find("x" * 100 + end, "a log")) == is_found


@pytest.mark.parametrize(
    ("path", "is_fit"), [("/connect/a-link", True), ("/connections/connect", True), ("/agents", False)]
)
def test_a_state_is_told_only_by_what_sends_a_browser_to_its_provider(path: str, *, is_fit: bool) -> None:
    kind = "server/connecting/provider_authorization.py 32"
    assert may_be_told(kind, "body", path) is is_fit
    assert not may_be_told(kind, "set-cookie", path)


@pytest.mark.parametrize("what", ["log", "traceback", "span", "refusal", "repr", "answer", "file"])
async def test_the_watch_sees_each_way_out(tmp_path: Path, what: str) -> None:
    watch, secret = Watch(), "planted-" + SECRET
    with watch.install(), watch.watch_logs():
        await let_out(watch, what, "nothing", tmp_path)
        assert not watch.look([tmp_path])
        watch.canaries.add("planted", secret)
        await let_out(watch, what, secret, tmp_path)
        assert {one.kind for one in watch.look([tmp_path])} == {"planted"}


async def let_out(watch: Watch, what: str, text: str, folder: Path) -> None:
    match what:
        case "log":
            logging.getLogger("token_vault.leaky").debug("said", extra={"token": text})
        case "traceback":
            try:
                raise ValueError(text)
            except ValueError as error:
                logging.getLogger("token_vault.leaky").debug("failed", exc_info=error)
        case "span":
            with spans.span("leaky") as span:
                span.note(token=text)
        case "refusal":
            ConnectionRequired("no", provider="slack", reason="missing", scopes=frozenset(), detail=text)
        case "repr":
            kind = make_dataclass("Leaky", ["token"])
            watch._watch_repr(kind)
            kind(text)
        case "answer":
            watch.note_answer("/leaky", "body", text.encode())
        case _:
            (folder / "vault.sqlite-wal").write_text(text)


STEPS = {
    "exchange": 1,
    "refresh": 1,
    "rotation": 1,
    "tool call": 3,
    "connection": 8,
    "key entry": 20,
    "approval": 8,
    "registration": 2,
}


@pytest.mark.requirement("V-07", "V-08")
@pytest.mark.parametrize(("flow", "step"), STEPS.items())
async def test_nothing_leaks_wherever_a_request_fails(sqlite_store: Store, flow: str, step: int) -> None:
    await check_silence(sqlite_store, flow, "defect", step=step)


@pytest.mark.long
@pytest.mark.parametrize("error", list(ERRORS))
@pytest.mark.parametrize("flow", list(FLOWS))
async def test_nothing_leaks_whatever_fails_at_each_await(sqlite_store: Store, flow: str, error: str) -> None:
    await check_silence(sqlite_store, flow, error, step=1)


async def test_a_key_is_a_secret_in_any_form(sqlite_store: Store) -> None:
    """People's keys and the root secret are stored wrapped."""
    watch, made = Watch(includes_keys=True), list[bytes]()
    with watch.install(), pytest.MonkeyPatch.context() as patch:
        wrap = LocalKey.wrap
        patch.setattr(LocalKey, "wrap", lambda master, key, about: made.append(key) or wrap(master, key, about))
        async with FLOWS["key entry"](sqlite_store) as prepare:
            assert (await (await prepare())()).status_code < 400
            (key, *_) = made
            assert not watch.look([sqlite_store.data])
            for written in (key, key.hex().encode(), base64.b64encode(key)):
                (sqlite_store.data / "other.sqlite").write_bytes(b"before" + written + b"after")
                assert [one.kind for one in watch.look([sqlite_store.data])] == ["a wrapped key"]
