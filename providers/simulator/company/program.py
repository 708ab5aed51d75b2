"""A program whose person signed in at the company: it gets assertions for them, over HTTP."""

from __future__ import annotations

import base64
import hashlib
import secrets
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2

_BACK = "http://127.0.0.1:33418/callback"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"


class CompanyProgram:
    """A client of the company, in the browser of a person who is signed in there."""

    def __init__(self, issuer: str, client_id: str, client_secret: str) -> None:
        self._issuer = issuer
        self._client = (client_id, client_secret)

    async def assertion(self, audience: str, *, resource: str | None = None, scope: str = "") -> str:
        """An ID-JAG for another authorization server (-03 §4.2 and §4.3). Raises ValueError with the refusal."""
        async with httpx2.AsyncClient(auth=self._client, timeout=15, trust_env=False) as http:
            id_token = await self._sign_in(http)
            form = {
                "grant_type": EXCHANGE,
                "requested_token_type": ID_JAG,
                "audience": audience,
                "scope": scope or "tools connections exchange",
                "subject_token": id_token,
                "subject_token_type": ID_TOKEN,
                **({} if resource is None else {"resource": resource}),
            }
            answer = (await http.post(f"{self._issuer}/token", data=form)).json()
        if "access_token" not in answer:
            raise ValueError(str(answer))
        return str(answer["access_token"])

    async def _sign_in(self, http: httpx2.AsyncClient) -> str:
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self._client[0],
            "redirect_uri": _BACK,
            "scope": "openid",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        page = await http.get(f"{self._issuer}/authorize?{urlencode(query)}")
        back = parse_qs(urlsplit(page.headers.get("location", "")).query)
        form = {
            "grant_type": "authorization_code",
            "code": back["code"][0],
            "redirect_uri": _BACK,
            "code_verifier": verifier,
        }
        return str((await http.post(f"{self._issuer}/token", data=form)).json()["id_token"])
