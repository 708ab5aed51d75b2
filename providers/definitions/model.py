"""The declarative model of an upstream service: what its TOML file may contain.

`providers.definitions.catalog` reads files, checks that they make sense and applies the operator's addresses;
`providers.oauth.client` speaks OAuth by these facts; `providers.api.rules` decides about calls by these rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Annotated, Final, Literal, get_args

from pydantic import BeforeValidator, Field, PrivateAttr, StringConstraints

from providers.definitions.credential import CREDENTIAL_FACTS, Credential
from providers.definitions.enterprise import Enterprise
from providers.definitions.grant_facts import (
    DownscopeFacts,
    PublicClient,
    RevocationFacts,
    RotationFacts,
    Title,
)
from providers.definitions.member_masks import RULE_PATH, MaskedMembers
from providers.definitions.method_overrides import FilePart, HostPattern, Key, Overrides, QueryName, ScopeName
from providers.definitions.paths import fold, pattern_of
from providers.definitions.sureness import Fact, Source, read_on, tally
from providers.definitions.token_facts import Expiry, Git, LongLived, Params, Renames, TokenShape
from providers.definitions.unruled_calls import EVERYTHING, UNRULED, UnruledLimits
from providers.outbound.addresses import AddressPolicy
from vault.upstream import CredentialKind, Downscope, RotationMode, UpstreamPolicy

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=40)]
# Of a body: a field of a form, or the path to a member of a JSON object, `a/b`; arrays on the path do not count.
MemberPath = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_$@][A-Za-z0-9_.$@-]*(/[A-Za-z0-9_$@][A-Za-z0-9_.$@-]*)*$", max_length=200),
]


FactName = Literal[
    "endpoints",
    "client_auth",
    "pkce",
    "scopes",
    "lifetimes",
    "rotation",
    "narrowing",
    "revocation",
    "identity",
    "console",
    "placement",  # this and the following: for a credential that people enter
    "shape",
    "probe",
]
_OF_CREDENTIALS: Final = ("placement", "shape", "probe")
ClientAuth = Literal[
    "client_secret_post",
    "client_secret_basic",
    "secret_as_user",
    "tls_client_auth",
    "self_signed_tls_client_auth",
    "none",
]
BY_CERTIFICATE: Final = frozenset({"tls_client_auth", "self_signed_tls_client_auth"})  # RFC 8705 §2


class Input(FilePart):
    """A value that only the operator knows: `{subdomain}` in a URL stands for the input with that name.

    The whole value must match `pattern`, and it never reaches beyond one part of a host name or path.
    """

    title: Title
    pattern: str = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
    example: str
    default: str | None = None


class Console(FilePart):
    """Where an operator creates the app. `{redirect_uri}` and `{scopes}` in a step are filled in."""

    url: str
    steps: tuple[Title, ...] = ()


class ProxyAllowances(FilePart):
    """What else clients that call the API through the vault may send, and what must not pass."""

    headers: frozenset[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]] = frozenset()  # to pass on, too
    # of `Prefer`, in addition to those of RFC 7240; others are dropped, because they may reveal more
    preferences: frozenset[Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9._-]*$")]] = frozenset()
    credentials: frozenset[Annotated[str, StringConstraints(to_lower=True)]] = frozenset()  # parameters with one
    links: bool = False  # its clients follow absolute addresses in answers: those of the API become the vault's
    # Its SDKs add a whole path to an address: below the address of any API, `/gmail/v1` means this API. Paths that
    # begin with /upload also work at the vault's origin, where such SDKs send files.
    paths: Mapping[Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._~-]+)+$", max_length=80)], Key] = Field(
        default_factory=dict[str, str]
    )
    # The query parameter that opens an upload session without a credential; clients see it only sealed.
    upload_session: QueryName | None = None
    # Hosts of addresses that work without a credential. A GET or HEAD that is redirected there gets what is there.
    downloads: frozenset[HostPattern] = frozenset()

    @cached_property
    def longest_paths(self) -> tuple[tuple[str, str], ...]:
        """`paths`, longest first."""
        return tuple(sorted(self.paths.items(), key=lambda one: -len(one[0])))


@dataclass(frozen=True, slots=True)
class Registration:
    """Our registration at the provider, and the operator's limit for everyone. From settings, never from a file."""

    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    scopes: frozenset[str] | None = None  # None: no limit
    reach: AddressPolicy | None = None  # how its addresses are reached; None: as everything else
    is_testing: bool = False  # the app there isn't published yet
    is_on: bool = False  # for a credential: people may enter one
    certificate_file: str | None = None  # PEM, with the private key: the client certificate
    regions: frozenset[str] = frozenset()  # in which accounts may be used; empty: no limit


class Authorization(FilePart):
    """How an API call sends the token: after `scheme` in this header, alone if the scheme is empty."""

    header: str = Field(default="Authorization", pattern=r"^[A-Za-z][A-Za-z0-9-]{0,60}$")
    scheme: str = Field(default="Bearer", pattern=r"^([A-Za-z][A-Za-z0-9-]{0,30})?$")


class Hosts(FilePart):
    """OAuth endpoints. `refresh_url` only if it differs from `token_url`. All but our own `audience` have both.

    `issuer` only if every authorization response has it as `iss` (RFC 9207); an answer without it is then refused.
    """

    authorize_url: str = ""
    token_url: str = ""
    refresh_url: str | None = None
    revoke_url: str | None = None
    issuer: str | None = None


class ScopeSyntax(FilePart):
    """How scopes are written, and which are always requested."""

    param: str = "scope"
    separator: str = " "
    default: frozenset[ScopeName] = frozenset()  # requested when a person connects without a call in mind
    offline: frozenset[ScopeName] = frozenset()  # requested to get a refresh token
    identity: frozenset[ScopeName] = frozenset()  # requested to identify the account; in every token
    synonyms: Mapping[ScopeName, ScopeName] = Field(default_factory=dict[str, str])  # as answered -> our name
    response_separator: str | None = None  # if answers use a different one; an array needs none
    app_level: bool = False  # the app defines them: none are sent, and only our rules enforce our scopes


class Identity(FilePart):
    """Where to read the account behind a token. `id` and `label` are texts with `{paths}` into the answer.

    `source`: an endpoint, the answer of the token endpoint, the `{credential.FIELD}` that got a token, or none: then
    each consent creates its own connection.
    """

    source: Literal["endpoint", "answer", "credential", "none"] = "endpoint"
    api: Key | None = None  # with `path`: an endpoint of that API
    path: str | None = None
    url: str | None = None
    method: Literal["GET", "POST"] = "GET"
    body: str | None = None  # JSON, of a POST
    id: str = ""
    label: str = ""


class Errors(FilePart):
    """The provider's own codes that differ from OAuth's and HTTP's."""

    ends_grant: frozenset[str] = frozenset({"invalid_grant"})
    busy: frozenset[str] = frozenset()  # refused before processing: safe to repeat
    unknown_outcome: frozenset[str] = frozenset({"server_error", "temporarily_unavailable"})
    unauthorized: frozenset[str] = frozenset()  # from an API: this token is dead
    insufficient_scope: frozenset[str] = frozenset()
    code: tuple[str, ...] = ("error",)  # paths to the code in an API's error answer; the first one that exists
    message: tuple[str, ...] = ("error_description", "message")
    ok_flag: str | None = None  # in an API's answers
    file_apis: frozenset[Key] = frozenset()  # answer with someone's files, in which `ok_flag` means nothing
    words: Mapping[str, Title] = Field(default_factory=dict[str, str])  # code -> what it means, and the fix
    # status -> code for the proxy's own refusals, if the service's SDK reads no error with another code
    by_status: Mapping[Annotated[str, StringConstraints(pattern=r"^[45][0-9]{2}$")], str] = Field(
        default_factory=dict[str, str]
    )


class Scope(FilePart):
    """One scope in plain words, for pages, and the scopes that it includes. `reads`: it changes nothing at the
    provider; not needed for a scope that allows only GET.
    """

    title: Title
    reads: bool = False
    covers: frozenset[ScopeName] = frozenset()


_MOST_OPEN = 1000
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


def _fill(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def _as_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class Rule(FilePart):
    """Which scopes allow one kind of call: any one of `scopes`. Calls that no rule allows are refused. `path` has `{}`
    for one segment, or for the variable part of one, and `{+}` for one or more segments. `where` maps a parameter, or a
    path to members of a JSON body such as `a/b`, to a pattern that each whole value must match; an absent value is the
    empty text. `inseparable`: scopes that widen what this call reaches without showing in the request, so that a token
    with one serves only callers who also hold it. `needs`: scopes that the caller must hold in addition, all of them.
    `query`: parameters allowed in the query when the token can do more than the caller, in addition to those of the
    file and of `where`, or "any"; others could widen what the answer reveals. `exact`: others are always refused,
    because they could show a credential or change something even within the scope. `json_fields`: parameters whose text
    is JSON, which is judged like the members of a JSON body. `tells_secrets`: the answer contains
    a credential, so only coded tools, which show none, make the call. `target`: a pattern that the header
    `X-Amz-Target` must match, which names the operation in AWS's JSON protocols; without it, there must be no such
    header.
    """

    api: Key
    method: Annotated[tuple[Method, ...], BeforeValidator(_as_list)] = Field(min_length=1)  # one, or a list
    path: str = Field(pattern=RULE_PATH)
    scopes: frozenset[ScopeName] = Field(min_length=1)
    where: Mapping[str, str] = Field(default_factory=dict[str, str])
    inseparable: frozenset[ScopeName] = frozenset()
    needs: frozenset[ScopeName] = frozenset()
    query: frozenset[QueryName] | Literal["any"] = frozenset()
    body: frozenset[MemberPath] | Literal["any"] = frozenset()
    exact: bool = False
    json_fields: frozenset[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$", max_length=80)]] = frozenset()
    tells_secrets: bool = False
    target: str = ""

    @cached_property
    def path_pattern(self) -> re.Pattern[str]:
        return pattern_of(self.path)

    @cached_property
    def folded_pattern(self) -> re.Pattern[str]:
        """The pattern for folded paths."""
        return pattern_of(fold(self.path))

    @cached_property
    def openness(self) -> tuple[int, int, int]:
        """Sort key for how open its path is: of two rules that fit a call, the more specific one decides."""
        if self.path == EVERYTHING:
            return _MOST_OPEN, 0, 0  # the same whatever another rule has in place of a segment
        return self.path.count("{+}"), self.path.count("{}"), -len(self.path)

    @cached_property
    def where_patterns(self) -> tuple[tuple[str, re.Pattern[str]], ...]:
        return tuple((name, re.compile(pattern)) for name, pattern in self.where.items())

    @cached_property
    def target_pattern(self) -> re.Pattern[str]:
        return re.compile(self.target)

    @cached_property
    def prefixes(self) -> frozenset[str]:
        """The members of a body that are known only in part: everything on the path to one of `body` or `where`."""
        ways = self.where.keys() | (self.body if self.body != "any" else frozenset[str]())
        steps = [path.split("/") for path in ways]
        return frozenset("/".join(one[:length]) for one in steps for length in range(1, len(one)))


class Provider(FilePart):
    """Everything we know about one upstream service.

    With `audience` it is an API that accepts our tokens for that audience, minted for each call. It has no OAuth, only
    APIs, scopes, and rules. With `credential`, people enter a key or the like.
    """

    name: Name
    title: Title
    audience: str | None = None
    credential: Credential | None = None
    aliases: Mapping[Name, frozenset[ScopeName]] = Field(default_factory=dict[str, frozenset[str]])
    hosts: Hosts = Hosts()
    inputs: Mapping[Key, Input] = Field(default_factory=dict[str, Input])
    client_auth: ClientAuth = "client_secret_basic"
    certificate_bound: bool = False  # tokens work only with the client certificate that got them (RFC 8705 §3)
    body: Literal["form", "json", "query"] = "form"  # of requests to the token endpoint
    pkce: Literal["S256", "off"] = "S256"
    state_at_token: bool = False  # the code is redeemed with the `state` of its consent
    refresh_tokens: Literal["issued", "never", "access_token"] = "issued"  # access_token: one that renews itself
    scope: ScopeSyntax = ScopeSyntax()
    params: Params = Params()
    rename: Renames = Renames()
    headers: Mapping[str, str] = Field(default_factory=dict[str, str], repr=False)  # on calls of the APIs
    authorization: Authorization = Authorization()
    git: Git | None = None
    long_lived: LongLived | None = None
    response: TokenShape = TokenShape()
    expires: Expiry = Expiry()
    public_client: PublicClient | None = None
    rotation: RotationFacts = RotationFacts()
    downscope: DownscopeFacts = DownscopeFacts()
    revoke: RevocationFacts = RevocationFacts()
    identity: Identity = Identity(source="none")
    apis: Mapping[Key, str] = Field(default_factory=dict[str, str])
    trailing_slash: bool = False  # every path of its APIs ends with a slash, which rules leave out
    errors: Errors = Errors()
    scopes: Mapping[ScopeName, Scope] = Field(min_length=1)
    query: frozenset[QueryName] = frozenset()  # parameters that widen no call's answer; see `Rule`
    nested_names: bool = False  # `a[b]` in a form or query is the member `b` of `a`; rules name it `a/b`
    overrides: Overrides | None = None  # required if there are rules
    masked: tuple[MaskedMembers, ...] = ()  # members of answers that carry a credential
    rules: tuple[Rule, ...] = ()
    rules_from: tuple[Name, ...] = ()  # more rules: rules/NAME.json next to the file
    unruled: UnruledLimits = UnruledLimits()
    console: Console | None = None
    facts: Mapping[FactName, Fact] = Field(default_factory=dict[FactName, Fact])
    sources: Mapping[Key, Source] = Field(default_factory=dict[str, Source])
    live_tested: date | None = None
    retired: Title | None = None  # since when the service no longer has this API, and what it has instead
    proxied: ProxyAllowances = ProxyAllowances()
    enterprise: Enterprise = Enterprise()
    _registration: Registration = PrivateAttr(default=Registration())
    _called: frozenset[str] = PrivateAttr(default=frozenset())

    def model_copy(self, *, update: Mapping[str, object] | None = None, deep: bool = False) -> Provider:
        """A copy. It recomputes everything that depends on facts other than the addresses of the APIs."""
        copied = super().model_copy(update=update, deep=deep)
        values = vars(copied)
        if update is None or set(update) != {"apis"}:
            for name in values.keys() - type(self).model_fields.keys():
                del values[name]
        return copied

    @property
    def is_remote(self) -> bool:
        """Whether this is someone else's MCP server, whose calls have no request rules."""
        return bool(self._called)

    def as_remote(self, called: frozenset[str]) -> Provider:
        """This provider as someone else's MCP server; `called` maps the vault's own scopes to what each allows
        calling."""
        changed = self.model_copy()
        changed._called = called  # noqa: SLF001 -- a copy of ourselves
        return changed

    @property
    def company_scopes(self) -> frozenset[str] | None:
        """The scopes that a company's connection requests, within the operator's limit; None if no assertion creates
        one."""
        facts, limit = self.enterprise.id_jag, self.registration.scopes
        if facts is None or self.registration.client_id is None:
            return None
        scopes = facts.scopes or self.scope.default
        return scopes if limit is None else scopes & limit

    @cached_property
    def registration(self) -> Registration:
        """Our registration there; empty until settings have one. Cached, because private attributes are slow."""
        return self._registration

    def authorize(self, token: str) -> dict[str, str]:
        """The header with which an API call sends this token."""
        scheme = self.authorization.scheme
        return {self.authorization.header: f"{scheme} {token}" if scheme else token}

    @property
    def is_composed(self) -> bool:
        """Whether its accounts hold more than a bearer token: several values, or a certificate's key."""
        credential = self.credential
        if credential is None or credential.kind != "key":
            return self.certificate_bound
        return len(credential.fields) > 1 or credential.send.certificate is not None

    @cached_property
    def credential_parameters(self) -> frozenset[str]:
        """Parameters, in lowercase, that contain a credential; only the vault may send one."""
        sent = () if self.credential is None else self.credential.send.query
        return self.proxied.credentials | frozenset(name.lower() for name in sent)

    def as_public_client(self) -> Provider:
        """This provider as seen by an app without a secret; unchanged if that isn't possible."""
        public = self.public_client
        if public is None:
            return self
        ends = {name: seconds for name in ("grant", "idle") if (seconds := getattr(public, name)) is not None}
        differing = {part: facts for part in ("rotation", "downscope") if (facts := getattr(public, part)) is not None}
        expires = self.expires.model_copy(update=ends)
        changes = {"client_auth": "none", "pkce": public.pkce, "expires": expires, **differing}
        return self.model_copy(update=changes)

    def with_registration(self, registration: Registration) -> Provider:
        """This provider with our registration, which some providers want in a header of every call."""
        ours = {"{client_id}": registration.client_id or ""}
        if registration.client_secret:
            ours["{client_secret}"] = registration.client_secret
        headers = {name: _fill(value, ours) for name, value in self.headers.items()}
        changed = self.model_copy(update={"headers": headers})
        changed._registration = registration  # noqa: SLF001 -- a copy of ourselves
        return changed

    @property
    def needs_secret(self) -> bool:
        """Whether our app there has a secret, for its token requests or in a header of every call."""
        return self.client_auth not in BY_CERTIFICATE | {"none"} or any(
            "{client_secret}" in value for value in self.headers.values()
        )

    @property
    def can_revoke(self) -> bool:
        """Whether we can end a grant there; the tokens of our own API don't need that."""
        needs_secret = isinstance(self.revoke.client_auth, str)
        has_way = self.hosts.revoke_url is not None and not (needs_secret and not self.registration.client_secret)
        return has_way or self.audience is not None

    @property
    def can_probe_by_refresh(self) -> bool:
        """Whether a refresh may be tried with a token that should be dead: it uses up none, and new tokens are
        ended."""
        return self.rotation.mode is RotationMode.NONE and self.revoke.ends_grant is True and self.can_revoke

    @property
    def tally(self) -> Mapping[str, int]:
        """The number of facts at each level of sureness."""
        return tally(self.facts.values(), expected=len(self.fact_names))

    @property
    def read_on(self) -> date | None:
        """The date of the newest source of its facts."""
        return read_on(self.sources)

    @property
    def fact_names(self) -> tuple[str, ...]:
        """The facts for which a file of this kind names sources."""
        if self.credential is not None:
            return CREDENTIAL_FACTS + (("narrowing",) if self.credential.kind == "signed_token" else ())
        return tuple(name for name in get_args(FactName) if name not in _OF_CREDENTIALS)

    @property
    def removal_pages(self) -> Mapping[str, str]:
        """Where a person ends it at the service, by kind of account; for a credential, where they created it."""
        if self.credential is None or self.revoke.pages or self.console is None:
            return self.revoke.pages
        return {self.title: self.console.url}

    @property
    def is_draft(self) -> bool:
        """Whether no source documents its endpoints."""
        endpoints = self.facts.get("endpoints")
        return endpoints is None or endpoints.status == "unknown"

    @cached_property
    def covers(self) -> Mapping[str, frozenset[str]]:
        """Scope -> every other scope that it includes, through any number of steps."""
        return {name: reach for name in self.scopes if (reach := self._reach(name))}

    @cached_property
    def all_scopes(self) -> frozenset[str]:
        """All its scopes."""
        return frozenset(self.scopes)

    @cached_property
    def unruled_scopes(self) -> frozenset[str]:
        """The vault's own scopes that an operator added for calls without a rule."""
        return self.all_scopes & UNRULED

    @cached_property
    def own_scopes(self) -> frozenset[str]:
        """All the vault's own scopes: the provider doesn't know them, and accounts don't need to hold them."""
        return self.unruled_scopes | self._called

    @cached_property
    def reach_of(self) -> dict[frozenset[str], frozenset[str]]:
        """Cache of what sets of scopes reach; `providers.api.rules` fills it."""
        return {}

    @cached_property
    def literal_rules(self) -> dict[tuple[str, str, str], tuple[Rule, ...]]:
        """Cache of the rules for calls of paths that the file names; `providers.api.rules` fills it."""
        return {}

    @cached_property
    def rules_by_call(self) -> Mapping[tuple[str, str], tuple[Rule, ...]]:
        """The rules by API and method, in the order of the file."""
        found: dict[tuple[str, str], tuple[Rule, ...]] = {}
        for rule in self.rules:
            for method in rule.method:
                found[rule.api, method] = (*found.get((rule.api, method), ()), rule)
        return found

    @cached_property
    def reading_scopes(self) -> frozenset[str]:
        """Scopes that change nothing: the file marks them, or they allow only GET."""
        known = frozenset(scope for rule in self.rules for scope in rule.scopes)
        more = frozenset(scope for rule in self.rules if rule.method != ("GET",) for scope in rule.scopes)
        return (known - more) | frozenset(name for name, scope in self.scopes.items() if scope.reads)

    def _reach(self, name: str) -> frozenset[str]:
        reached: set[str] = set()
        waiting = list(self.scopes[name].covers)
        while waiting:
            scope = waiting.pop()
            if scope not in reached:
                reached.add(scope)
                waiting.extend(self.scopes[scope].covers if scope in self.scopes else ())
        return frozenset(reached - {name})

    @cached_property
    def always_granted(self) -> frozenset[str]:
        """Identity and offline scopes in every spelling; any token may have them, and they have no effect at an API."""
        ours = self.scope.identity | self.scope.offline
        return ours | {answered for answered, said in self.scope.synonyms.items() if said in ours}

    @property
    def identity_url(self) -> str:
        """Where the account is looked up."""
        if self.identity.url is not None:
            return self.identity.url
        return self.apis[self.identity.api or ""].rstrip("/") + (self.identity.path or "")

    def downscope_url(self, path: str | None) -> str | None:
        """The address of `downscope.path` or `downscope.told_path`."""
        api = self.downscope.api
        return None if path is None or api is None else self.apis[api].rstrip("/") + path

    def words(self, scopes: frozenset[str]) -> tuple[str, ...]:
        """The scopes in plain words for a page; a scope that the file doesn't describe is shown by name."""
        shown = sorted(scopes - self.always_granted)
        return tuple(self.scopes[scope].title if scope in self.scopes else scope for scope in shown)

    def policy(self) -> UpstreamPolicy:
        """The facts that the vault needs to decide."""
        limit = self.own_scopes if self.is_remote else self.registration.scopes
        return UpstreamPolicy(
            provider=self.name,
            audience=self.audience,
            credential=CredentialKind.OAUTH if self.credential is None else CredentialKind(self.credential.kind),
            rotation=self.rotation.mode if self.credential is None else RotationMode.NONE,
            grace=self.rotation.grace,
            downscope=self.downscope.mode,
            downscope_is_destructive=self.downscope.destructive  # a refresh would end the full token just the same
            or (self.downscope.mode is Downscope.REFRESH_SCOPE and self.rotation.ends_access_token),
            items=self.downscope.items,
            grants_more_than_asked=self.scope.app_level or self.credential is not None,
            covers=self.covers,
            always_granted=self.always_granted,
            access_lifetime=self.expires.default,
            grant_lifetime=self.expires.grant,
            grant_idle=self.expires.idle,
            refresh_ends_access_token=self.rotation.ends_access_token,
            revoke_ends_grant=self.revoke.ends_grant if self.credential is None else False,
            revoke_ends_account=self.revoke.account is not None,
            removal_pages=tuple(self.removal_pages.values()),
            operator_scopes=None if limit is None else limit | self.own_scopes,
            own=self.own_scopes,
            unruled=self.unruled_scopes,
            reading=self.reading_scopes,
            is_remote=self.is_remote,
        )
