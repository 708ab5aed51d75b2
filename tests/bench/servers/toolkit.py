"""django-oauth-toolkit on SQLite with one confidential client and its refresh tokens, which are printed.

`python -m tests.bench.servers.toolkit PORT FOLDER SECRET [COUNT]`. Secrets aren't hashed, refresh tokens aren't
rotated, and a commit isn't synced (`synchronous=normal`): the least work for a refresh. With COUNT, it rotates that
many tokens, and each commit is durable (`synchronous=full`).
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import django
import uvicorn
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.utils import timezone

PORT, FOLDER, SECRET = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
ROTATED = int(sys.argv[4]) if len(sys.argv) > 4 else 0


def configure() -> None:
    """Configure a Django project with only the toolkit."""
    settings.configure(
        SECRET_KEY=SECRET,
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF="oauth2_provider.urls",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],  # sets Content-Length
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": FOLDER / "toolkit.sqlite3",
                "CONN_MAX_AGE": None,
                "OPTIONS": {
                    "transaction_mode": "IMMEDIATE",
                    "init_command": f"pragma journal_mode=wal; pragma synchronous={'full' if ROTATED else 'normal'}",
                },
            }
        },
        USE_TZ=True,
        OAUTH2_PROVIDER={"SCOPES": {"read": "Read"}, "ROTATE_REFRESH_TOKEN": ROTATED > 0, "PKCE_REQUIRED": False},
    )
    django.setup()
    call_command("migrate", verbosity=0)


def fill() -> list[str]:
    """Create everything that a refresh needs, with a separate refresh token for each concurrent request and more."""
    from django.contrib.auth.models import User
    from oauth2_provider.models import AccessToken, Application, RefreshToken

    user = User.objects.create_user("person", "person@bench.example")
    application = Application.objects.create(
        client_id="bench",
        client_secret=SECRET,
        hash_client_secret=False,
        client_type=Application.CLIENT_CONFIDENTIAL,
        authorization_grant_type=Application.GRANT_AUTHORIZATION_CODE,
        redirect_uris="https://app.example/callback",
    )
    ends = timezone.now() + timedelta(hours=1)
    tokens = [f"refresh-{number}" for number in range(ROTATED or 64)]
    for token in tokens:
        first = AccessToken.objects.create(
            user=user, application=application, token=f"first-{token}", expires=ends, scope="read"
        )
        RefreshToken.objects.create(user=user, application=application, token=token, access_token=first)
    return tokens


if __name__ == "__main__":
    configure()
    print(*fill(), flush=True)
    uvicorn.run(
        get_wsgi_application(),  # pyright: ignore[reportArgumentType]
        host="127.0.0.1",
        port=PORT,
        interface="wsgi",
        http="httptools",
        loop="uvloop",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=600,
    )
