"""Descriptions of the fields of a provider file, for the reference page and the JSON Schema for editors. A key names
one field or several, as written in a file; links are relative to docs/reference. Each further line of a text explains
one part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

PROVIDER_BY_TOPIC: Final[Mapping[str, Mapping[str, str]]] = {
    "The service": {
        "name, title": "The name in settings and tools; the title on pages.",
        "[apis]": "Base URLs by key, the only hosts that get the token.",
        "trailing_slash": "`true` if every path of its APIs ends with a slash. Leave the slash out of rules.",
        "[hosts]": (
            "`authorize_url`, `token_url`, `refresh_url`, `revoke_url`; `issuer`, which authorization responses "
            "must then name (RFC 9207)."
        ),
        "[inputs]": "Values that replace `{name}` in addresses: `title`, `pattern`, `example`, `default`.",
        "[aliases]": "Other names, each with the scopes to request.",
        "[console]": "Page where an operator creates the app, and the `steps`.",
        "[facts], [sources]": (
            "[The source of each fact](#how-sure-a-file-is), by level:\n"
            "`checked`: read in the service's own documentation or library on the source's date.\n"
            "`cited`: reported by two independent sources.\n"
            "`unsure`: reported by only one source, or the sources differ.\n"
            "`unknown`: no source, so the strictest value applies: a used refresh token ends the grant, tokens can't "
            "be narrowed, and nothing is assumed about revocation.\n"
            "`live_tested`: when the file was tested at the service."
        ),
        "retired": (
            "For an API that the service has closed: since when, and what replaces it. No account can be connected "
            "anymore, and people see the text at theirs."
        ),
        "audience": "The audience of [your own API](../guides/own-api.md), instead of OAuth tables.",
        "[credential]": "[Instead of OAuth](#a-credential-that-people-enter).",
    },
    "Get tokens": {
        "client_auth": (
            "How the vault authenticates:\n"
            "`client_secret_basic` (default) or `client_secret_post`.\n"
            "`secret_as_user`: the secret is the Basic user name.\n"
            "`tls_client_auth` or `self_signed_tls_client_auth`: a certificate (RFC 8705).\n"
            "`none`."
        ),
        "certificate_bound": "`true` if API calls need the client certificate, too (RFC 8705, section 3).",
        "pkce": "`S256` (default) or `off`.",
        "[scope]": (
            "How scopes are requested: `param`, `separator`, `response_separator`.\n"
            "`default`, `offline`, `identity`: always requested.\n"
            "`synonyms`: names of scopes in answers, with the names in this file.\n"
            "`app_level`: scopes are set on the app, and none are requested."
        ),
        "[scopes]": "Every scope: `title`, the scopes it `covers`, `reads = true` if it changes nothing.",
        "[params]": "Extra parameters for `authorize`, `token`, `refresh`.",
        "[rename]": "Other names of parameters for `authorize` and `token`; an empty name omits the parameter.",
        "body": "Format of token requests: `form` (default), `json`, or `query`.",
        "state_at_token": "`true` if the code is redeemed together with its `state`.",
        "[response]": (
            "How the token endpoint's answer differs from RFC 6749:\n"
            "`root`: the member that holds the tokens.\n"
            "`access_token`, `refresh_token`, `scope`: their paths below `root`.\n"
            "`error`, `error_description`: their paths in the whole answer.\n"
            "`ok_flag`: the answer is an error unless this member is `true`.\n"
            "`keep`: facts to store, each with its path in the whole answer.\n"
            "`grant_expires`: the path of the seconds until the grant ends, in the whole answer."
        ),
        "[identity]": (
            "How the account is identified: `id` and `label`, with `{paths}` into the answer.\n"
            "`source`: `endpoint`, `answer` of the token endpoint, or `none`.\n"
            "The request: `url`, or `api` and `path`; `method`, `body`."
        ),
        "[public_client]": (
            "Present if an app without a secret can be used, with a redirect URI on loopback.\n"
            "`pkce`, `rotation`, `downscope`: replace those of the file.\n"
            "`grant`, `idle`: replace those of `[expires]`."
        ),
        "[enterprise]": (
            "`id_jag`: for [connections without a "
            "page](../operate/enterprise.md#connect-peoples-accounts-without-a-page), with these members:\n"
            "`audience`: the issuer of the service's authorization server.\n"
            "`resource`: the API that the token is for.\n"
            "`scopes`: the scopes to request (default `scope.default`)."
        ),
    },
    "Renew tokens": {
        "refresh_tokens": (
            "What the service issues:\n"
            "`issued` (default): refresh tokens.\n"
            "`never`: none; the vault keeps the access token.\n"
            "`access_token`: an access token that is renewed at `refresh_url` with the `grant_type` of `[params]`."
        ),
        "[rotation]": (
            "`mode`: what happens to a used refresh token:\n"
            "`none`: it stays valid.\n"
            "`grace`: it is reissued for `grace` seconds.\n"
            "`strict`: it is refused.\n"
            "`revokes` (default): it ends the grant.\n"
            "`ends_access_token`: `true` if a refresh ends the previous access token."
        ),
        "[expires]": (
            "`path` and `unit` of the access token's end.\n"
            "Seconds if answers have no time: `default`, `grant` in total, `idle` without a refresh, `testing` for an "
            "unpublished app."
        ),
        "[long_lived]": "Second step, for a long-lived token: `url`, `grant_type`, `token_param`.",
    },
    "Narrow and revoke tokens": {
        "[downscope]": (
            "How to get a token with fewer scopes.\n"
            "`mode`: `none`, `refresh_scope`, `exchange` (RFC 8693), or `native` (`api`, `path`).\n"
            "`destructive`: `true` if that harms the grant, so the vault never does it.\n"
            "`param`, `array`: how a refresh requests the scopes.\n"
            "`told_path`, `scopes_at`: where `api` reports a token's scopes.\n"
            "`items`, `item`: whether and how a token can be limited to one item."
        ),
        "[revoke]": (
            "The request: `method`, `param`, `tokens`, `each`, `client_auth`, `ends_grant`.\n"
            "`token_in`: `form`, `json`, `query`, `path`, `header`, or `header_and_form`.\n"
            "`account`: the parameter that names the account's `id`, if no token is sent.\n"
            "`pages`: where the person removes the app if the vault can't, by kind of account."
        ),
        "[revoke.probe]": (
            "How to check that a token is dead.\n"
            "`access_token`: `identity` (its lookup) or `introspection` (RFC 7662 at `url`).\n"
            "`refresh_token`: `introspection`, or `refresh` if a refresh uses up no token and a revocation ends the "
            "whole grant."
        ),
    },
    "Call APIs": {
        "[authorization]": (
            "How API calls send the token: `header` (default `Authorization`), `scheme` (default `Bearer`; may be "
            "empty)."
        ),
        "[headers]": "Headers of every API call; `{client_id}` and `{client_secret}` are filled in.",
        "[git]": "The `api` for git, and the `user` whose password is the token.",
        "[errors]": (
            "The provider's codes by meaning.\n"
            "`ok_flag`: an API's answer is an error unless this member is `true`.\n"
            "`file_apis`: APIs that answer with someone's files, in which no error is looked for.\n"
            "`by_status`: codes for the proxy's own refusals, if the SDK reads no others."
        ),
        "[[rules]]": "Which [scopes allow which call](#a-rule); others are refused before anything is sent.",
        "rules_from": "Shared rule files: names of `rules/NAME.json` in the same folder.",
        "query": (
            "Parameters that reveal nothing beyond the scope (paging, sorting); others need a rule where the "
            "token can do more than the caller."
        ),
        "nested_names": "`true` if `a[b]` in a form or query is the member `b` of `a`; rules name it `a/b`.",
        "[unruled]": (
            "For [`unruled_calls`](../guides/providers.md#a-service-without-request-rules): `unsafe_reads` (a GET "
            "changes something), `closed` paths, `sources`."
        ),
        "[overrides]": (
            "What changes a call's method, and is refused: `parameters`, `headers`, `sources`. Required "
            "with rules. `_method` and its like are always refused."
        ),
        "[[masked]]": (
            "Members of answers with which an agent could do more than it may, or go on after its permission ended: "
            "tokens, keys, codes, links that change something or open more than the answer, and the signed URL of a "
            "file that the API sends, too. Tools and proxy replace their texts with `*`. Don't list what people pass "
            "on (invitations, share links, payment pages), or the signed URL of a file that can't be read otherwise.\n"
            "`members`: their names, wherever they occur, with everything below them.\n"
            "`paths`: only in answers of these calls; without it, of all.\n"
            "`shown_to`: scopes whose holders see them.\n"
            "`only_query`: their texts are addresses, of which only the query is masked.\n"
            "`files`: content types in which these calls answer with someone's file, which stays as it is unless it is "
            "a list of objects, like a folder's."
        ),
        "[proxied]": (
            "For the [proxy](../guides/api-proxy.md).\n"
            "`headers`, and `preferences` in `Prefer`: passed on to the provider.\n"
            "`credentials`: parameters that contain credentials, which clients can't send.\n"
            "`links`: `true` if clients follow absolute addresses in answers.\n"
            "`paths`: paths that SDKs add to any API's address (below `/upload/` also to the vault's origin), each "
            "with its API.\n"
            "`upload_session`: the query parameter that opens an upload session, sealed for clients.\n"
            "`downloads`: hosts of addresses that work without a credential (`files.example`, `*.files.example`). "
            "The proxy follows a GET or HEAD that is redirected there, without the token, and clients don't see the "
            "address."
        ),
    },
}
PROVIDER: Final[Mapping[str, str]] = {
    name: text for fields in PROVIDER_BY_TOPIC.values() for name, text in fields.items()
}

RULE: Final[Mapping[str, str]] = {
    "api, method, path": "`{}` is one segment, `{+}` several; the most specific match decides.",
    "scopes, needs": "Any one of `scopes`; in addition, all of `needs`.",
    "where": "Parameter, or path in a JSON body such as `a/b`, and the pattern of each whole value.",
    "query": 'Further parameters, or `"any"`.',
    "body": (
        "Form fields, or paths in a JSON body with everything below them (arrays on the way don't count); "
        '`"any"` if the body is content. Others are refused as for `query`.'
    ),
    "exact": "Parameters that aren't listed are always refused, also where the token can do no more than the caller.",
    "json_fields": "Parameters whose text is JSON, judged like members of a JSON body.",
    "inseparable": (
        "Scopes that widen what this call reaches without showing in the request: a token with one of them "
        "that the caller lacks is refused."
    ),
    "target": "Pattern of the header `X-Amz-Target`, AWS's name of the operation. Without it, calls can't have one.",
    "tells_secrets": "The answer contains a credential, so the proxy and declared tools can't make the call.",
}

CREDENTIAL: Final[Mapping[str, str]] = {
    "kind": (
        "How the credential is used:\n"
        "`key`: it is sent as entered.\n"
        "`client_credentials` (RFC 6749 §4.4): the fields `client_id` and `client_secret` get a token at "
        "`hosts.token_url`, by `client_auth`, `body`, `params.token`, and `response`.\n"
        "`signed_token`, `session`: described under these names."
    ),
    "signed_token": (
        "A private key (PEM, or a member of a JSON key file) signs tokens.\n"
        "`algorithm`, `lifetime`; `claims` and `header`, with `{fields}`.\n"
        "`sent` as `assertion` (RFC 7523), `bearer` (GitHub's installations), or `itself`.\n"
        'With `downscope.mode = "refresh_scope"`, each exchange gets a token for exactly its scopes.'
    ),
    "session": (
        "The vault exchanges the entered values for a session.\n"
        "Steps: `sign_in` (at `hosts.token_url`), `renew` (at `hosts.refresh_url`), and `sign_out` (at "
        "`hosts.revoke_url`).\n"
        "Each step has `method`, `fields` of the body, and `headers`; later ones may use `{token}` and "
        "`{refresh_token}`.\n"
        "`body`, `response`, and `expires` describe the answer, `authorization` how calls send the token."
    ),
    "fields": (
        "What the person enters.\n"
        "`title`; `example`; `optional`; `default`; `by_admin`; `lines` and `members` for key files.\n"
        "`pattern` of the whole value (default: 8 to 4096 characters). A named group, `-(?P<dc>us[0-9]+)`, is a value, "
        "too.\n"
        "`choices`; with `many`, several of them.\n"
        "`secret` (default `true`). Other values may be part of addresses and `identity.path`; in a host name only "
        "with two labels after them (`{shop}.example.com`) or `choices`."
    ),
    "send": (
        "Where a `key` goes, with `{fields}`. All secrets must be sent.\n"
        "`headers`, `query`, or `basic` (`user`, `password`).\n"
        "`certificate`: a `file` with certificate and key, for mutual TLS.\n"
        "`aws`: signs each request."
    ),
    "[identity]": (
        "The probe, if there is such a call. Omit `id` and `label` if the answer names no account.\n"
        "The credential works: any success, a status in `alive`, a code in `errors.insufficient_scope`, or a text in "
        "`alive_texts`.\n"
        "It doesn't work: a status in `dead` (default 401), or a code in `errors.unauthorized`.\n"
        "Any other 403 proves nothing."
    ),
    "[expires]": (
        "`grant`, if each credential ends after a fixed number of seconds. `rotate_days`: its end on pages and in "
        "reminders. Neither counts if the person names another end or keeps the secret elsewhere."
    ),
    "[console]": "Where and how the person creates it; also where they end it, unless `revoke.pages` says otherwise.",
    "[scopes]": (
        "Enforced only by rules: `GET` of `/{+}` for `read`, the other methods for `write`, searches by "
        "`POST` for `read`. Calls whose answer contains a credential need a rule with `tells_secrets`."
    ),
}


def field_texts(texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The name of each field, and its text without links."""
    for names, text in texts.items():
        for name in names.split(", "):
            yield name.strip("[]"), re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
