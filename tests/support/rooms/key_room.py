"""A vault with services at the simulator whose accounts are connected by keys, and people who enter them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from providers.simulator.local_server import Simulator, running_simulator
from tests.support.harness import running_vault
from tests.support.person import Person
from tests.support.rooms.mcp_room import Agent
from tests.support.rooms.portal_room import Room
from tests.support.rooms.proxy_room import ProxyHandle
from vault import connections, delegations, handles
from vault.records import Connection, Principal, User

READ, WRITE = frozenset({"read"}), frozenset({"read", "write"})
_FILE = """
name = "{name}"
title = "{title}"
{credential}
{identity}
[apis]
main = "https://mailroom.example/v1"
[errors]
code = ["code"]
message = ["message"]
[scopes]
read = {{ title = "Read mail", reads = true }}
write = {{ title = "Send mail", covers = ["read"] }}
[scope]
default = ["read"]
[overrides]
sources = ["simulator"]
[sources]
simulator = {{ name = "providers/simulator/mailroom", date = 2026-11-27 }}
[console]
url = "https://mailroom.example/settings/keys"
steps = ["Make a key"]
[[rules]]
api = "main"
method = "POST"
path = "/keys"
scopes = ["write"]
tells_secrets = true
[[rules]]
api = "main"
method = "GET"
path = "/{{+}}"
scopes = ["read"]
query = "any"
[[rules]]
api = "main"
method = "POST"
path = "/{{+}}"
scopes = ["write"]
query = "any"
body = "any"
"""
_NAMED = '[identity]\napi = "main"\npath = "/me"\nid = "{id}"\nlabel = "{email}"'
_UNNAMED = '[identity]\napi = "main"\npath = "/me"'
_KEY = """[credential]
title = "API key"
[credential.fields.key]
title = "API key"
pattern = '{pattern}'
{more}
[credential.send]
{send}"""
SHAPE = "mr_live_[0-9a-f]{32}"
_CLIENT = """[credential]
kind = "client_credentials"
title = "Client ID and secret"
[credential.fields.client_id]
title = "Client ID"
secret = false
[credential.fields.client_secret]
title = "Client secret"
[hosts]
token_url = "https://mailroom.example/token"
"""
_KEY_FILE = """[credential]
kind = "signed_token"
title = "Service account key"
[credential.fields.key_file]
title = "Key file"
lines = true
[credential.fields.key_file.members]
private_key = '(?s)-----BEGIN.*'
private_key_id = '[0-9a-f]{8,40}'
client_email = '[a-z0-9-]+@mailroom\\.example'
[credential.fields.subject]
title = "Person to act for"
secret = false
optional = true
by_admin = true
pattern = '[a-z]+'
[credential.signed_token]
algorithm = "RS256"
key = "key_file.private_key"
header = { kid = "{private_key_id}" }
claims = { iss = "{client_email}", aud = "{token_url}", scope = "{scopes}", sub = "{subject}" }
[downscope]
mode = "refresh_scope"
[hosts]
token_url = "https://mailroom.example/assertion"
"""
_APP = """[credential]
kind = "signed_token"
title = "Private key"
[credential.fields.app_id]
title = "App ID"
secret = false
pattern = '[0-9]+'
[credential.fields.installation_id]
title = "Installation ID"
secret = false
pattern = '[0-9]+'
[credential.fields.private_key]
title = "Private key"
lines = true
[credential.signed_token]
key = "private_key"
sent = "bearer"
lifetime = 570
backdated = 30
header = { kid = "{app_id}" }
claims = { iss = "{app_id}" }
[downscope]
mode = "refresh_scope"
items = "optional"
item = ["/boxes/{owner}/{repo}"]
[hosts]
token_url = "https://mailroom.example/installations/{installation_id}/access_tokens"
"""
_SIGNED = """[credential]
kind = "signed_token"
title = "Private key"
[credential.fields.key_id]
title = "Key ID"
secret = false
pattern = '[A-Z0-9]{8}'
[credential.fields.issuer]
title = "Issuer"
secret = false
pattern = '[a-z]+'
[credential.fields.private_key]
title = "Private key"
lines = true
[credential.fields.passphrase]
title = "Passphrase"
optional = true
pattern = '.+'
[credential.signed_token]
algorithm = "ES256"
key = "private_key"
passphrase = "passphrase"
sent = "itself"
lifetime = 1200
header = { kid = "{key_id}" }
claims = { iss = "{issuer:upper}", aud = "mailroom-v1" }
operations = { read = ["GET /v1/messages"] }
[downscope]
mode = "refresh_scope"
"""
_SESSION = """[credential]
kind = "session"
title = "User and password"
[credential.fields.name]
title = "User"
secret = false
pattern = '[a-z0-9-]+'
[credential.fields.word]
title = "Password"
[credential.session.sign_in]
fields = { "login.name" = "{name}", "login.word" = "{word}" }
[credential.session.renew]
headers = { Authorization = "Bearer {refresh_token}" }
[credential.session.sign_out]
method = "DELETE"
headers = { X-Mailroom-Session = "{token}" }
[hosts]
token_url = "https://mailroom.example/session"
refresh_url = "https://mailroom.example/session/renewal"
revoke_url = "https://mailroom.example/session"
[response]
root = "data"
access_token = "id"
refresh_token = "renewal"
error = "code"
[expires]
path = "seconds"
[authorization]
header = "X-Mailroom-Session"
scheme = ""
"""
_BY_FILE = """[identity]
source = "credential"
id = "{credential.client_email} {credential.subject}"
label = "{credential.subject} {credential.client_email}"
"""
_LOGIN = '[credential.fields.login]\ntitle = "User"\nsecret = false\npattern = "[a-z]+"\nexample = "alice"'


def _key(send: str, more: str = "") -> str:
    return _KEY.format(pattern=SHAPE, send=send, more=more)


SERVICES: Mapping[str, tuple[str, str]] = {
    "mailroom": (_key('headers = { X-Mailroom-Key = "{key}" }'), _NAMED),
    "mailroom-bearer": (_key('headers = { Authorization = "Bearer {key}" }'), _UNNAMED),
    "mailroom-query": (_key('query = { key = "{key}" }'), _NAMED),
    "mailroom-basic": (_key('basic = { user = "{login}", password = "{key}" }', _LOGIN), _NAMED),
    "mailroom-user": (_key('basic = { user = "{key}" }'), _NAMED),
    "mailroom-blind": (_key('headers = { X-Mailroom-Key = "{key}" }'), ""),  # without a probe
    "mailroom-client": (_CLIENT, _NAMED),
    "mailroom-service": (_KEY_FILE, _BY_FILE),
    "mailroom-app": (_APP, _NAMED),
    "mailroom-signed": (_SIGNED, _NAMED),
    "mailroom-session": (_SESSION, _NAMED),
    "mailroom-renewable": (
        _SESSION.replace('X-Mailroom-Session = "{token}"', 'Authorization = "Bearer {refresh_token}"'),
        _NAMED,
    ),
}


@dataclass
class KeyRoom(Room):
    """The room of the page tests, with the services above."""

    def books(self) -> list[Mapping[str, object]]:
        """The calls of the service, oldest first."""
        return list(self.simulator.books()["mailroom"])

    async def form(self, person: Person, provider: str = "mailroom") -> httpx2.Response:
        """The page on which the person enters a credential."""
        page = await person.open(f"/connections/connect?provider={provider}")
        answer = await person.submit(page, {"account": "new"}, form="/connections/connect")
        assert "/connect/credential/" in str(answer.url), answer.text
        return answer

    async def enter(self, person: Person, page: httpx2.Response, **values: str) -> httpx2.Response:
        """Submit the page with these values; `key` is the field with that name."""
        sent: dict[str, str | list[str] | None] = {
            name if name in {"label", "ends"} else f"field.{name}": value for name, value in values.items()
        }
        return await person.submit(page, sent, form="/connect/credential/")

    async def connect_account(
        self, user: User, person: Person, provider: str = "mailroom", **values: str
    ) -> Connection:
        """An account of the user, connected by what they entered; by default a new key of the user's."""
        values = values or {"key": self.simulator.sandbox.keys.make(user.name)}
        answer = await self.enter(person, await self.form(person, provider), **values)
        assert "/connect/done/" in str(answer.url), answer.text
        wanted = str(answer.url).partition("/connect/done/")[2].partition("?")[0]
        found = await connections.get_connection(self.deployment.database, wanted, user_id=user.id)
        assert found is not None
        return found

    async def allow_agent(self, user: User, connection: Connection, scopes: frozenset[str]) -> ProxyHandle:
        """An agent that may use the account, and its handle."""
        deployment, now = self.deployment, self.deployment.now()
        client = await self.agent()
        grant_id = await self.grant(user, client)
        principal = Principal(user.id, client.id, grant_id, frozenset({"tools"}), f"{self.url}/mcp")
        async with deployment.transaction() as transaction:
            await delegations.extend(
                transaction,
                user_id=user.id,
                client_id=client.id,
                connection_id=connection.id,
                scopes=scopes,
                now=now,
            )
            value = await handles.issue(
                transaction,
                principal=principal,
                connection_id=connection.id,
                provider=connection.provider,
                scopes=scopes,
                key_thumbprint=None,
                expires_at=now + 3600,
                now=now,
            )
        return ProxyHandle(self.vault, Agent(principal, ""), connection, value)


def write_services(data: Path, simulator: Simulator) -> dict[str, dict[str, Any]]:
    """Put the files of the services into a data directory; their settings."""
    folder = data / "providers"
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, dict[str, Any]] = {}
    for name, (credential, identity) in SERVICES.items():
        text = _FILE.format(name=name, title=name.title(), credential=credential, identity=identity)
        if name == "mailroom-app":  # GitHub's names of permissions
            for scope in ("read", "write"):
                text = text.replace(f'"{scope}"', f'"mail:{scope}"').replace(f"\n{scope} = ", f'\n"mail:{scope}" = ')
        if credential.startswith(_SESSION[:60]):
            text = text.replace("\n[credential]", '\nbody = "json"\n[credential]', 1)
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
        settings[name] = {"apis": {"main": f"{simulator.url}/mailroom/v1"}}
    settings["mailroom-client"]["token_url"] = f"{simulator.url}/mailroom/token"
    at = f"{simulator.url}/mailroom/session"
    for name in ("mailroom-session", "mailroom-renewable"):
        settings[name] |= {"token_url": at, "refresh_url": f"{at}/renewal", "revoke_url": at}
    settings["mailroom-service"]["token_url"] = f"{simulator.url}/mailroom/assertion"
    settings["mailroom-app"]["token_url"] = f"{simulator.url}/mailroom/installations/{{installation_id}}/access_tokens"
    return settings


@asynccontextmanager
async def running_key_room(
    data: Path,
    *,
    database_url: str | None = None,
    overrides: Mapping[str, object] | None = None,
    more: Mapping[str, Mapping[str, object]] | None = None,
) -> AsyncGenerator[KeyRoom]:
    """Vault and simulator on free ports until the block ends; with `more` providers."""
    async with running_simulator() as simulator, AsyncExitStack() as stack:
        settings = write_services(data, simulator)
        vault = await stack.enter_async_context(
            running_vault(
                data,
                providers={**simulator.settings(), **settings, **(more or {})},
                database_url=database_url,
                overrides=overrides,
            )
        )
        yield KeyRoom(vault, simulator, stack)
