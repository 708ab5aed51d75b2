"""The form for a credential such as an API key: on the page of its person, and on that of an admin who enters it."""

from __future__ import annotations

from providers.definitions.credential import NAMES
from server.connecting.credentials import LABEL_LIMIT, CredentialForm, EntryFault
from server.http.page_texts import text
from server.http.translations import with_language
from server.portal.forms import Form

_FIELD = "field."


def form_context(
    form: CredentialForm, sent: Form, *, is_admin: bool, refused: EntryFault | None = None
) -> dict[str, object]:
    """The values of `credential_form.html`, with what was sent except secrets. `is_admin`: an admin fills it in."""
    provider = form.provider
    fields = {name: about for name, about in form.credential.fields.items() if is_admin or not about.by_admin}
    public = {name: sent.one(_FIELD + name) or about.default for name, about in fields.items() if not about.secret}
    console = provider.console
    return {
        "provider": provider,
        "what": form.credential.title,
        "fields": [(name, about, public.get(name, "")) for name, about in fields.items()],
        "is_open": not form.credential.secrets,
        "page_there": "" if console is None or NAMES.search(console.url) else console.url,
        "steps": [with_language(one) for one in (() if console is None else console.steps)],
        "replaces": form.replaces,
        "names_itself": bool(provider.identity.id),
        "has_key": form.credential.signed_token is not None or form.credential.send.certificate is not None,
        "is_tried": provider.identity.source == "endpoint" or form.credential.kind != "key",
        "label": sent.one("label") or ("" if form.replaces is None else form.replaces.label),
        "ends": sent.one("ends"),
        "longest": LABEL_LIMIT,
        "error": "" if refused is None else _words(form, refused),
        "error_field": "" if refused is None else refused.field,
    }


def values_of(form: CredentialForm, sent: Form) -> dict[str, str]:
    """The entered values by field."""
    return {name: sent.one(_FIELD + name) for name in form.credential.fields}


def _words(form: CredentialForm, refused: EntryFault) -> str:
    """The error text, without the entered values."""
    about = form.credential.fields.get(refused.field)
    example = "" if about is None or about.secret else about.example
    name = "shape_like" if example and refused.reason == "shape" else refused.reason
    return text(
        f"credential_refused.{name}",
        field="" if about is None else about.title,
        example=example,
        provider=form.provider.title,
        regions=", ".join(sorted(form.provider.registration.regions)),
        status=str(refused.status or ""),
        account="" if form.replaces is None else form.replaces.label,
    )
