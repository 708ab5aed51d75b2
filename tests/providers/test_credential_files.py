"""Provider files for accounts that people connect by entering a credential.

Each refused file has a twin without that fault.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from providers.api.rules import of_path
from providers.credentials.entered_values import CredentialRefused, pack, unpack
from providers.definitions.catalog import KEYS, check_file, load_catalog
from providers.definitions.credential import Credential, CredentialField

GOOD = """
name = "example"
title = "Example"
[credential.fields.key]
title = "API key"
pattern = 'ex_(?P<dc>us[0-9])_[a-z0-9]{8,64}'
example = "ex_us1_00000000"
[credential.fields.shop]
title = "Shop"
secret = false
example = "acme"
pattern = '[a-z0-9-]+'
[credential.send]
headers = { X-Key = "{key}" }
[identity]
api = "main"
path = "/me"
[apis]
main = "https://{shop}.{dc}.example.com/v1"
[scopes]
read = { title = "Read" }
[console]
url = "https://example.com/keys"
"""
CLIENT = """
name = "example"
title = "Example"
[credential]
kind = "client_credentials"
[credential.fields.client_id]
title = "Client ID"
secret = false
[credential.fields.client_secret]
title = "Client secret"
[hosts]
token_url = "https://example.com/token"
[apis]
main = "https://example.com/v1"
[scopes]
read = { title = "Read" }
[console]
url = "https://example.com/keys"
"""
SIGNED = """
name = "example"
title = "Example"
[credential]
kind = "signed_token"
[credential.fields.file]
title = "Key file"
lines = true
members = { private_key = "(?s).+", owner = "[a-z]+" }
[credential.fields.unit]
title = "Unit"
secret = false
pattern = "[a-z]+"
[credential.signed_token]
key = "file.private_key"
claims = { iss = "{owner}", scope = "{scopes}", aud = "{token_url}" }
[downscope]
mode = "refresh_scope"
[hosts]
token_url = "https://example.com/{unit}/token"
[apis]
main = "https://example.com/v1"
[scopes]
read = { title = "Read" }
[console]
url = "https://example.com/keys"
[facts]
narrowing = { status = "cited", sources = ["docs"] }
[sources]
docs = { name = "example.com/docs", date = 2026-11-27 }
"""


def problems(text: str, folder: Path) -> list[str]:
    path = folder / "example.toml"
    path.write_text(text, encoding="utf-8")
    return check_file(path)


@pytest.mark.parametrize("text", [GOOD, CLIENT, SIGNED])
def test_a_file_with_a_credential_needs_no_oauth(tmp_path: Path, text: str) -> None:
    assert problems(text, tmp_path) == []


@pytest.mark.parametrize(
    ("text", "right", "wrong", "said"),
    [
        (GOOD, "[identity]", '[hosts]\ntoken_url = "https://example.com/token"\n[identity]', "hosts: doesn't work"),
        (GOOD, "[identity]", '[rotation]\nmode = "none"\n[identity]', "rotation: doesn't work"),
        (GOOD, '"{key}"', '"{shop}"', "the secret 'key' is sent nowhere"),
        (GOOD, '"{key}"', '"{key} {other}"', "{other} isn't a field"),
        (GOOD, "X-Key", "Host", "'host' has another meaning"),
        (GOOD, '"https://{shop}.{dc}', '"https://{shop}.{key}', "{key} is secret, and addresses are no secret"),
        (GOOD, "{dc}.example.com", "{dc}.com", "{dc} decides whose host that is"),
        (GOOD, "{shop}.{dc}.example.com", "{shop}.herokuapp.com", "{shop} decides whose host that is"),
        (GOOD, "{shop}.{dc}.example.com", "{shop}", "{shop} decides whose host that is"),
        (GOOD, '"/me"', '"/me/{key}"', "identity.path: {key} isn't a field that may stand in an address"),
        (GOOD, 'example = "acme"', 'example = "a/b"', "doesn't match the pattern"),
        (GOOD, "secret = false", "secret = true", "credential.send: the secret 'shop'"),
        (GOOD, '[console]\nurl = "https://example.com/keys"', "", "console: missing"),
        (CLIENT, "fields.client_id", "fields.client_name", "needs client_id and client_secret"),
        (CLIENT, 'token_url = "https://example.com/token"', "", "hosts.token_url: missing"),
        (CLIENT, "[hosts]", '[hosts]\nauthorize_url = "https://example.com/a"', "hosts.authorize_url: doesn't work"),
        (CLIENT, "[hosts]", '[credential.send]\nheaders = { X = "{client_secret}" }\n[hosts]', "exchanged for a token"),
        (SIGNED, '"file.private_key"', '"unit"', "'unit' isn't a secret field"),
        (SIGNED, '"{owner}"', '"{private_key}"', "{private_key} is secret, and a token's claims are not"),
        (SIGNED, '"{owner}"', '"{nobody}"', "{nobody} isn't a field"),
        (SIGNED, "com/{unit}/", "com/{owner}/", "{owner} is in a key file, which must not choose an address"),
        (SIGNED, "{unit}/token", "{file}/token", "{file} is secret, and addresses are no secret"),
        (SIGNED, "https://example.com/{unit}", "https://{unit}", "{unit} decides whose host that is"),
        (SIGNED, "[hosts]", '[hosts]\nrevoke_url = "https://example.com/r"', "hosts.revoke_url: doesn't work"),
        (
            SIGNED,
            "[credential.signed_token]",
            '[credential.send]\nquery = { a = "{file}" }\n[credential.signed_token]',
            "sign",
        ),
        (SIGNED, 'scope = "{scopes}"', 'scope = "all"', "belongs to a token that says what it may do"),
        (SIGNED, '"signed_token"\n', '"client_credentials"\n', "belongs to kind signed_token"),
        (
            SIGNED,
            "[apis]",
            '[identity]\nsource = "answer"\nid = "{id}"\nlabel = "{id}"\n[apis]',
            "comes without an answer",
        ),
        (
            SIGNED.replace('"{owner}",', '"{owner}", sub = "{unit}",')
            + '[identity]\nsource = "credential"\nid = "{credential.owner} {credential.unit}"\n'
            + 'label = "{credential.unit}"\n',
            "{credential.owner} {credential.unit}",
            "{credential.owner}",
            "{credential.unit} decides for whom the token is",
        ),
    ],
)
def test_a_fault_is_named(tmp_path: Path, text: str, right: str, wrong: str, said: str) -> None:
    assert right in text
    found = problems(text.replace(right, wrong), tmp_path)
    assert any(said in line for line in found), found


def test_choices_may_decide_the_host(tmp_path: Path) -> None:
    chosen = GOOD.replace("{shop}.{dc}.example.com", "{shop}").replace("[a-z0-9-]+", "[a-z0-9.-]+")
    assert problems(chosen, tmp_path) != []
    listed = chosen.replace('example = "acme"', 'choices = ["example.com", "example.eu"]')
    assert problems(listed, tmp_path) == []


def test_shipped_files_name_two_sources_and_close_what_tells_credentials() -> None:
    shipped = [load_catalog().provider(path.stem) for path in sorted(KEYS.glob("*.toml"))]
    assert len(shipped) >= 12
    for provider in shipped:
        assert provider.credential is not None
        assert set(provider.facts) <= set(provider.fact_names), provider.name
        assert len(provider.sources) >= 2, provider.name
        assert provider.facts["endpoints"].status != "unknown", provider.name


def test_two_projects_say_where_each_key_goes_and_to_whom() -> None:
    catalog = load_catalog()
    for provider in (catalog.provider(path.stem) for path in sorted(KEYS.glob("*.toml"))):
        if provider.rules_from:
            levels = {name: provider.facts[name].level for name in ("endpoints", "placement")}
            assert "unsure" not in levels.values(), f"{provider.name}: {levels}"
            assert (provider.identity.path is None) == ("probe" not in provider.facts), provider.name
    assert len(catalog.all_providers()) >= 500


@pytest.mark.parametrize(
    ("path", "is_closed"),
    [
        ("/v1/api-keys", True),
        ("/v1/projects/7/tokens/9", True),
        ("/v1/projects/7/tokens", True),
        ("/v1/projects/7", False),
        ("/v1/tokenize", False),
    ],
)
def test_a_key_without_scopes_reads_no_further_credentials(path: str, *, is_closed: bool) -> None:
    rules = of_path(load_catalog().provider("apify"), api="main", method="GET", path=path)
    assert rules and {rule.tells_secrets for rule in rules} == {is_closed}


def test_a_sealed_credential_outlives_a_change_of_the_fields() -> None:
    one = Credential(fields={"key": CredentialField(title="Key")})
    two = Credential(fields={**one.fields, "shop": CredentialField(title="Shop", secret=False, optional=True)})
    both = {"key": "k" * 8, "shop": "acme"}
    assert unpack(one, pack(two, both)) == {"key": "k" * 8}
    assert unpack(two, pack(one, both)) == {"key": "k" * 8, "shop": ""}
    other = Credential(fields={"secret": CredentialField(title="Secret", pattern="[a-z]{8}")})
    with pytest.raises(CredentialRefused):
        unpack(other, pack(two, both))
    assert unpack(other, "abcdefgh") == {"secret": "abcdefgh"}
