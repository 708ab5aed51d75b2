"""What the fields of a provider file mean: on the reference page, and in the JSON Schema for editors.

A key names one field or several, as a file writes them; links lead from docs/reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

PROVIDER: Final[Mapping[str, str]] = {
    "name, title": "In settings and tools; on pages.",
    "audience": "For [your own API](../guides/own-api.md), without OAuth tables.",
    "client_auth": (
        "`client_secret_basic` (default), `client_secret_post`, `secret_as_user` (the secret is the Basic "
        "user name), `tls_client_auth` or `self_signed_tls_client_auth` (a certificate, RFC 8705), or `none`."
    ),
    "certificate_bound": "`true` if API calls need the client certificate, too (RFC 8705, section 3).",
    "body": "Of token requests: `form` (default), `json`, or `query`.",
    "pkce": "`S256` (default) or `off`.",
    "state_at_token": "`true` if the code is redeemed with its `state`.",
    "refresh_tokens": (
        "`issued` (default), `never`: the vault keeps the access token, or `access_token`: that is renewed at "
        "`refresh_url` with the `grant_type` of `[params]`."
    ),
    "[aliases]": "Other names, each with the scopes to request.",
    "[hosts]": (
        "`authorize_url`, `token_url`, `refresh_url`, `revoke_url`; `issuer`, which authorization responses "
        "must then name (RFC 9207)."
    ),
    "[inputs]": "Values for `{name}` in addresses: `title`, `pattern`, `example`, `default`.",
    "[scope]": (
        "`param`, `separator`, `response_separator`; always requested: `default`, `offline`, `identity`; "
        "`synonyms` in answers; `app_level`: the app's scopes count, none are requested."
    ),
    "[params]": "Extra parameters for `authorize`, `token`, `refresh`.",
    "[rename]": "Other names of parameters for `authorize` and `token`; empty omits one.",
    "[headers]": "On every API call; `{client_id}` and `{client_secret}` are filled in.",
    "[git]": "The `api` that git speaks, and the `user` whose password the token is.",
    "[authorization]": (
        "How API calls bring the token: `header` (default `Authorization`), `scheme` (default `Bearer`; may be empty)."
    ),
    "[long_lived]": "Second step from a short-lived token to a long one: `url`, `grant_type`, `token_param`.",
    "[response]": (
        "Where the token answer differs: `root`, paths to `access_token`, `refresh_token`, `scope`, `error`, "
        "`error_description`; `ok_flag`; facts to `keep`; `grant_expires`."
    ),
    "[expires]": (
        "`path` and `unit` of the access token's end. Seconds if answers don't say: `default`, `grant` in "
        "total, `idle` without a refresh, `testing` for an unpublished app."
    ),
    "[public_client]": (
        "An app without a secret on loopback: `pkce`, and what differs: `grant`, `idle`, `rotation`, `downscope`."
    ),
    "[rotation]": (
        "`mode` of a used refresh token: `none` stays valid, `grace` reissued for `grace` seconds, `strict` "
        "refused, `revokes` (default) ends the grant. `ends_access_token`: a refresh ends the previous access "
        "token."
    ),
    "[downscope]": (
        "`mode`: `none`, `refresh_scope`, `exchange` (RFC 8693), or `native` (`api`, `path`). `destructive`: "
        "never done. `param`, `array`: how a refresh asks. `told_path`, `scopes_at`: where `api` tells a "
        "token's scopes. `items`, `item`: tokens for one thing."
    ),
    "[revoke]": (
        "`method`, `token_in` (`form`, `json`, `query`, `path`, `header`, `header_and_form`), `param`, "
        "`tokens`, `each`, `client_auth`, `ends_grant`; `account`: the parameter that names the account's "
        "`id`, if no token is sent; `pages`: where the person removes the app if the vault can't, by kind of "
        "account."
    ),
    "[revoke.probe]": (
        "How to see that a token is dead. `access_token`: `identity` (its look-up) or `introspection` (RFC "
        "7662 at `url`); `refresh_token`: `introspection`, or `refresh` where a refresh spends nothing and a "
        "revocation ends the whole grant."
    ),
    "[identity]": (
        "Where the account is named: `source` (`endpoint`, `answer` of the token endpoint, `none`), `url` or "
        "`api` and `path`; `method`, `body`, `id`, `label`."
    ),
    "[enterprise]": (
        "`id_jag`: for [connections without a "
        "page](../operate/enterprise.md#connect-peoples-accounts-without-a-page), the `audience` (issuer) of "
        "its authorization server, the `resource`, and the `scopes` to ask for (else `scope.default`)."
    ),
    "[apis]": "Base URLs by key, the only hosts that get the token.",
    "trailing_slash": "`true` if every path of its APIs ends with a slash, which rules leave out.",
    "[errors]": (
        "The provider's codes by meaning; `by_status`: codes for the proxy's own refusals, if the SDK knows no others."
    ),
    "[scopes]": "Every scope: `title`, the scopes it `covers`, `reads = true` if it changes nothing.",
    "[proxied]": (
        "For the [proxy](../guides/api-proxy.md): `headers` and `preferences` (in `Prefer`) that pass; "
        "parameters that are `credentials`; `links`: clients follow absolute addresses in answers; `paths` "
        "that SDKs add to any API's address (below `/upload/` also to the vault's origin), with the API "
        "meant; `upload_session`: the query parameter that opens one, sealed for clients."
    ),
    "rules_from": "Shared rule files: names of `rules/NAME.json` beside this file.",
    "query": (
        "Parameters that reveal nothing beyond the scope (paging, sorting); others need a rule where the "
        "token can do more than the caller."
    ),
    "[unruled]": (
        "For [`unruled_calls`](../guides/providers.md#a-service-without-request-rules): `unsafe_reads` (a GET "
        "changes something), `closed` paths, `sources`."
    ),
    "[overrides]": (
        "What turns a call into another method, and is refused: `parameters`, `headers`, `sources`. Required "
        "with rules. `_method` and its like are always refused."
    ),
    "[console]": "Where an operator creates the app, and the `steps`.",
    "[facts], [sources]": "[Who says so](#how-sure-a-file-is); `live_tested`: when it was tested at the service.",
    "[[rules]]": "Which scopes allow which call; others are refused before anything is sent.",
    "[credential]": "[Instead of OAuth](#a-credential-that-people-enter).",
}

RULE: Final[Mapping[str, str]] = {
    "api, method, path": "`{}` is one segment, `{+}` several; the most specific match decides.",
    "scopes, needs": "Any of these; all of these in addition.",
    "where": "Parameter, or path in a JSON body such as `a/b`, and the pattern of each whole value.",
    "query": 'Further parameters, or `"any"`.',
    "body": (
        "Form fields, or paths in a JSON body with everything below them (arrays on the way don't count); "
        '`"any"` if the body is content. Others are refused as for `query`.'
    ),
    "inseparable": (
        "Scopes that widen what this call reaches without showing in the request: a token with one of them "
        "that the caller lacks is refused."
    ),
    "target": "Pattern of the header `X-Amz-Target`, AWS's name of the operation. Without it, a call has none.",
    "tells_secrets": "The answer contains a credential: neither the proxy nor a declared tool gets it.",
}

CREDENTIAL: Final[Mapping[str, str]] = {
    "kind": (
        "A `key` is sent as entered. `client_credentials` (RFC 6749 §4.4) are the fields `client_id` and "
        "`client_secret`, for a token at `hosts.token_url`, by `client_auth`, `body`, `params.token`, and "
        "`response`."
    ),
    "signed_token": (
        "A private key (PEM, or a member of a JSON key file) signs tokens: `algorithm`, `claims`, and "
        "`header` with `{fields}`, `lifetime`. `sent` as `assertion` (RFC 7523), `bearer` (GitHub's "
        'installations), or `itself`. With `downscope.mode = "refresh_scope"`, each exchange gets a token for '
        "exactly its scopes."
    ),
    "session": (
        "What was entered is exchanged for a session, by the steps `sign_in` (at `hosts.token_url`), `renew` (at "
        "`hosts.refresh_url`), and `sign_out` (at `hosts.revoke_url`), each with `method`, `fields` of the body, and "
        "`headers`; later ones may use `{token}` and `{refresh_token}`. `body`, `response`, and `expires` describe the "
        "answer, `authorization` how calls bring the token."
    ),
    "fields": (
        "What the person enters: `title`; `pattern` of the whole value (else 8 to 4096 characters); "
        "`example`; `secret` (default `true`); `optional`; `default`; `choices`, of which `many` takes "
        "several; `lines`, `members` (key files); `by_admin`. A named group, `-(?P<dc>us[0-9]+)`, is a value too."
    ),
    "send": (
        "Where a `key` goes, with `{fields}`: `headers`, `query`, `basic` (`user`, `password`), `certificate` "
        "(a `file` with certificate and key, for mutual TLS), or `aws`, which signs each request. All secrets "
        "must be sent."
    ),
    "[identity]": (
        "The probe, if there is such a call. Omit `id` and `label` if the answer names no account. The "
        "credential works by any success, a status in `alive`, a code in `errors.insufficient_scope`, or a "
        "text in `alive_texts`; it doesn't by a status in `dead` (default 401) or a code in "
        "`errors.unauthorized`. A 403 that says neither proves nothing."
    ),
    "[expires]": (
        "`grant`, if each credential ends after so many seconds. `rotate_days`: its end on pages and in "
        "reminders, unless the person names another."
    ),
    "[console]": "Where the person makes it, and how; also where they end it, unless `revoke.pages` says otherwise.",
    "[scopes]": (
        "Enforced by rules alone: `GET` of `/{+}` for `read`, the other methods for `write`, searches by "
        "`POST` for `read`. Calls whose answer contains a credential need a rule with `tells_secrets`."
    ),
}


def field_texts(texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The name of each field, and its text without links."""
    for names, text in texts.items():
        for name in names.split(", "):
            yield name.strip("[]"), re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
