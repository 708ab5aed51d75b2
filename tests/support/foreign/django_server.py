"""django-oauth-toolkit as the person's provider, in a separate process: `python FILE REDIRECT`.

Its rotation and reuse protection are on; its pages and its sign-in are Django's. It prints its URL as a line of JSON,
then answers questions about its records, one line each.
"""

from __future__ import annotations

import base64
import json
import socket
import sys
import tempfile
import threading
from pathlib import Path

import django
import uvicorn
from django.conf import settings
from django.core.management import call_command

CLIENT = {"client_id": "vault", "client_secret": "a-secret-of-the-vault"}
SIGN_IN = (
    '<form method="post">{% csrf_token %}{{ form }}<button type="submit" name="go" value="1">Sign in</button></form>'
)


def configure(folder: Path) -> None:
    """A complete Django project in one folder."""
    folder.joinpath("registration").mkdir()
    folder.joinpath("registration", "login.html").write_text(SIGN_IN, encoding="utf-8")
    middleware = ("sessions.middleware.Session", "middleware.csrf.CsrfView", "auth.middleware.Authentication")
    settings.configure(
        SECRET_KEY="only for tests",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.staticfiles",
            "oauth2_provider",
        ],
        MIDDLEWARE=[
            f"django.{'' if name.startswith('middleware') else 'contrib.'}{name}Middleware" for name in middleware
        ],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [folder], "APP_DIRS": True}],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": folder / "db.sqlite3",
                "OPTIONS": {"transaction_mode": "IMMEDIATE"},
            }
        },
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],  # fast, because nobody uses these passwords
        STATIC_URL="/static/",
        LOGIN_URL="/sign-in",
        USE_TZ=True,
        OAUTH2_PROVIDER={
            "SCOPES": {"profile": "Who you are", "files:read": "Read files", "files:write": "Change files"},
            "ACCESS_TOKEN_EXPIRE_SECONDS": 600,
            "REFRESH_TOKEN_EXPIRE_SECONDS": 86400,
            "ROTATE_REFRESH_TOKEN": True,
            "REFRESH_TOKEN_REUSE_PROTECTION": True,
            "PKCE_REQUIRED": True,
            "ALLOWED_REDIRECT_URI_SCHEMES": ["http"],
        },
    )
    django.setup()
    call_command("migrate", verbosity=0)


def fill(redirect: str) -> None:
    """Create two people and our registration."""
    from django.contrib.auth.models import User
    from oauth2_provider.models import Application

    User.objects.create_user("ghost", "ghost@foreign.example", "anything")
    User.objects.create_user("carol", "carol@foreign.example", "anything")
    Application.objects.create(
        **CLIENT,
        name="Vault",
        redirect_uris=redirect,
        client_type=Application.CLIENT_CONFIDENTIAL,
        authorization_grant_type=Application.GRANT_AUTHORIZATION_CODE,
    )


def routes() -> list[object]:
    """The toolkit's endpoints, Django's sign-in, and an endpoint that names a token's person."""
    from django.contrib.auth.views import LoginView
    from django.http import HttpRequest, JsonResponse
    from django.urls import include, path
    from oauth2_provider.decorators import protected_resource

    @protected_resource(scopes=["profile"])
    def me(request: HttpRequest) -> JsonResponse:
        user = request.resource_owner
        return JsonResponse({"sub": str(user.pk), "email": user.email})

    return [
        path("sign-in", LoginView.as_view()),
        path("me", me),
        path("", include("oauth2_provider.urls", namespace="oauth2_provider")),
    ]


def answer(question: dict[str, str], *, issuer: str) -> dict[str, object]:
    """What the records contain, or what happens when a used refresh token is presented again."""
    import httpx2
    from oauth2_provider.models import AccessToken, RefreshToken

    match question["ask"]:
        case "books":
            used = RefreshToken.objects.filter(revoked__isnull=False).count()
            return {"refresh tokens": RefreshToken.objects.count(), "used": used}
        case "token":
            token = AccessToken.objects.filter(token=question["value"]).first()
            return {"scope": token.scope if token is not None and not token.is_expired() else None}
        case "grant":
            held = RefreshToken.objects.filter(revoked__isnull=True).select_related("access_token").first()
            return {"scope": held.access_token.scope if held is not None and held.access_token else None}
        case "replay":
            used = RefreshToken.objects.filter(revoked__isnull=False).latest("revoked").token
            form = {"grant_type": "refresh_token", "refresh_token": used}
            basic = base64.b64encode(":".join(CLIENT.values()).encode()).decode()
            headers = {"authorization": f"Basic {basic}"}
            return httpx2.post(f"{issuer}/token/", data=form, headers=headers, timeout=30).json()
        case other:
            raise ValueError(other)


def main(redirect: str) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listening:
        configure(Path(folder))
        fill(redirect)
        globals()["urlpatterns"] = routes()
        from django.core.asgi import get_asgi_application

        issuer = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(get_asgi_application(), log_level="warning", lifespan="off"))
        running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        running.start()
        print(json.dumps({"issuer": issuer}), flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line), issuer=issuer)), flush=True)
        server.should_exit = True
        running.join()


if __name__ == "__main__":
    main(sys.argv[1])
