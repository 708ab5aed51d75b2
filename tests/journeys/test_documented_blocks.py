"""Every fenced block of every page is parsed by its type, or the test that runs or compares it is named here.

`tests/journeys/test_documentation.py` checks that the commands and their options exist.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.settings import Settings, SettingsRefused, load_settings
from tests.generating.documentation import PAGES_WITH_BLOCKS, ROOT, leaves, lines_to_type

WHEEL = "dist/mcp_token_vault-VERSION-py3-none-any.whl"
# docs/operate/install.md: what `make release` runs with other folders and paths
INSTALLING = (
    f"uvx --from {WHEEL} mcp-token-vault demo",
    f"pipx install {WHEEL}",
    "python3 -m venv /opt/token-vault",
    "/opt/token-vault/bin/pip install --no-deps --require-hashes -r requirements.txt",
    f"/opt/token-vault/bin/pip install --no-deps {WHEEL}",
    "apt-get install ./dist/token-vault_VERSION_amd64.deb",
)
SECRET = ('key="$(openssl rand -base64 32)" --from-literal=database-url=postgresql://vault:PASSWORD@postgres/vault',)
# these can't be run here unchanged; the page says what was run instead
NOT_HERE = (
    "systemctl enable --now token-vault",
    "journalctl -u token-vault",
    "install -m 600 /dev/stdin /etc/token-vault/slack-secret",
    "systemctl edit token-vault",
    "podman compose up -d",
    "podman compose logs vault",
    *(f"kubectl create secret generic token-vault --from-literal={one}" for one in SECRET),
    "helm install vault deploy/helm/token-vault --values values.yaml",
    f"sigstore sign {WHEEL}",
    f"sigstore verify identity --cert-identity EMAIL --cert-oidc-issuer ISSUER {WHEEL}",
)
# neither our commands nor make's, and the test that runs them unchanged
RUN_BY = {
    "git clone REPOSITORY token-vault": "tests/first_hour/__main__.py",
    "cd token-vault": "tests/first_hour/__main__.py",
    "python3 -m venv ~/token-vault && ~/token-vault/bin/pip install .": "tests/first_hour/__main__.py",
    'export PATH="$HOME/token-vault/bin:$PATH"': "tests/first_hour/__main__.py",
    'eval "$(token-vault try-exchange --sandbox)"': "tests/journeys/test_exchange_guide.py",
    "openssl ecparam -name prime256v1 -genkey -noout -out key.pem": "tests/journeys/test_exchange_guide.py",
    "openssl ec -in key.pem -pubout -out worker.pem": "tests/journeys/test_exchange_guide.py",
    "export SSL_CERT_FILE=/etc/ssl/with-our-own.pem": "tests/cli/clients/test_client_config.py",
    **dict.fromkeys(INSTALLING, "tests/release/trials.py"),
    **dict.fromkeys(NOT_HERE, "needs systemd, a container engine's registry, a cluster, or a publisher's account"),
    **dict.fromkeys(
        ("cd deploy/container", "sh make-secrets.sh secrets", "export VAULT_HOST=vault.example.com"),
        "tests/deploying/test_files.py",
    ),
}
# blocks that are neither our commands nor settings: what they are, and the test that compares or runs them
OTHERS = {
    ("README.md", "text"): "tests/mcp/test_mcp_tools.py",
    ("docs/guides/api-proxy.md", "text"): "tests/proxy/test_proxy_requests.py",
    ("docs/operate/tls-proxy.md", "text"): "tests/journeys/test_guides_of_providers.py",
    ("docs/operate/postgresql.md", "text"): "tests/vault/storage/test_postgres_hosts.py",
    ("docs/guides/register.md", "bash"): "tests/journeys/test_register_page.py",
    ("docs/operate/policy.md", "cedar"): "tests/policy/test_policy_page.py",
    ("docs/guides/clients-for-programs.md", "python"): "tests/api/test_client_pages.py",
    ("docs/guides/clients-for-programs.md", "ts"): "tests/api/test_client_pages.py",
    ("clients/python/README.md", "python"): "tests/api/test_client_pages.py",
    ("clients/typescript/README.md", "ts"): "tests/api/test_client_pages.py",
    ("CONTRIBUTING.md", "python"): "tests/mcp/test_tool_declaration.py",
}


FILES = {
    f"docs/{name}.md"
    for name in (
        "guides/add-a-provider",
        "operate/policy",
        "reference/provider-files",
        "reference/tool-files",
    )
}  # these also show provider files, tool files, and test cases for rules
CURL = {
    "docs/guides/token-exchange.md": "tests/journeys/test_exchange_guide.py",
    "docs/operate/admin-api.md": "tests/api/test_documented_admin.py",
}  # the pages whose `curl` blocks are run there


@dataclass(frozen=True)
class Block:
    page: str
    kind: str
    text: str


def blocks() -> Iterator[Block]:
    for path in PAGES_WITH_BLOCKS:
        text = path.read_text(encoding="utf-8")
        for kind, body in re.findall(r"^ *```([a-z]*)\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL):
            yield Block(path.relative_to(ROOT).as_posix(), kind, body)


def test_no_block_has_a_kind_that_nobody_looks_at() -> None:
    known = {"sh", "toml", "json"}
    unknown = {(one.page, one.kind) for one in blocks() if one.kind not in known and (one.page, one.kind) not in OTHERS}
    assert not unknown
    for where in [*OTHERS.values(), *RUN_BY.values(), *CURL.values()]:
        assert " " in where or (ROOT / where).is_file(), where
    for (page, _), where in OTHERS.items():
        assert Path(page).stem in (ROOT / where).read_text(encoding="utf-8"), f"{where} doesn't read {page}"


def test_every_line_to_type_is_ours_or_is_run_by_a_named_test() -> None:
    ours = {line.partition(": ")[2].strip() for line, _ in lines_to_type()}
    for block in blocks():
        if block.kind != "sh" or (block.page in CURL and "curl " in block.text):
            continue
        for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
            if line.strip():
                assert line.strip() in ours or line.strip() in RUN_BY, f"{block.page}: {line}"


def test_every_block_of_settings_is_accepted(tmp_path: Path) -> None:
    for block in blocks():
        if block.kind != "toml":
            continue
        if any(one in block.text for one in ("name = ", "[[rules]]", "[tool.", "[credential]")) and block.page in FILES:
            assert tomllib.loads(block.text), block
            continue
        if block.page == "docs/operate/admin-api.md":  # a declaration: `tests/api/test_documented_admin.py` applies it
            continue
        file = tmp_path / "config.toml"
        file.write_text(block.text, encoding="utf-8")
        try:
            load_settings(file)
        except SettingsRefused as refused:
            pytest.fail(f"{block.page}: {refused}\n{block.text}")


def test_every_json_block_is_json() -> None:
    for block in blocks():
        if block.kind == "json":
            text = block.text.strip()
            json.loads(text if text.startswith(("{", "[")) else f"{{{text}}}")  # a whole document, or one member of it


def test_every_setting_that_any_page_names_exists() -> None:
    real = {".".join(path) for path, _ in leaves(Settings)}
    sections = {name.rpartition(".")[0] for name in real} | {"sign_in.openid"}
    sources = "".join(
        path.read_text(encoding="utf-8") for one in ("server", "vault") for path in (ROOT / one).rglob("*.py")
    )
    for page in PAGES_WITH_BLOCKS:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for span in re.findall(r"`([a-z_]+(?:\.[A-Za-z_-]+)+)(?: = [^`]*)?`", text):
            is_file, is_event = span.endswith((".toml", ".py", ".ts", ".md")), f'"{span}"' in sources
            if span.split(".")[0] not in Settings.model_fields or is_file or is_event:
                continue
            name = re.sub(r"^(providers|sign_in\.openid)\.[A-Za-z-]+(?=\.|$)", r"\1.NAME", span)
            assert name in real | sections, f"{page.relative_to(ROOT)}: {span}"
