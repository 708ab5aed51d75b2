"""A brokerage with an API but no OAuth: it verifies the tokens of the one issuer that it trusts.

Like a developer's own API: the issuer's metadata names its keys (RFC 8414), and a token must be signed with one of
them, be of the type and for the audience of this API, and be current (RFC 9068 §4). The books record whom a token acts
for and its scopes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import httpx2
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from pydantic import JsonValue, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from providers.simulator.calls import SimulatedCall
from providers.simulator.state.market import PRICES, Market
from providers.simulator.state.sandbox import Sandbox
from providers.simulator.wire import endpoint

FACE: Final = "brokerage"
_DOCUMENT: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])


@dataclass(frozen=True, slots=True)
class _Caller:
    subject: str
    agent: str
    scopes: frozenset[str]


class _BearerRefusal(Exception):
    """RFC 6750 §3.1."""

    def __init__(self, code: str, reason: str, *, status: int) -> None:
        super().__init__(reason)
        self.answer = JSONResponse(
            {"error": code, "error_description": reason},
            status_code=status,
            headers={"www-authenticate": f'Bearer error="{code}"'} if status in {401, 403} else None,
        )
        self.reason = reason


def brokerage_routes(sandbox: Sandbox) -> list[Route]:
    """The endpoints of its API."""

    def route(method: str, path: str, name: str) -> Route:
        def handler(call: SimulatedCall) -> Response:
            return _answer(sandbox, call, name)

        answering = endpoint(sandbox, FACE, f"api.{name}", handler)

        async def with_keys(request: Request) -> Response:
            market = sandbox.market
            if market.issuer and market.keys is None:
                market.keys = await _published_keys(market.issuer)
            return await answering(request)

        return Route(f"/{FACE}/v1{path}", with_keys, methods=[method])

    return [
        route("GET", "/quotes/{symbol}", "quotes"),
        route("GET", "/positions", "positions"),
        route("POST", "/orders", "orders"),
    ]


async def _published_keys(issuer: str) -> KeySet | None:
    """RFC 8414 §3, and the keys that the metadata names; None while they are unavailable."""
    try:
        async with httpx2.AsyncClient(timeout=5, trust_env=False) as http:
            found = await http.get(f"{issuer}/.well-known/oauth-authorization-server")
            metadata = _DOCUMENT.validate_json(found.content)
            if metadata.get("issuer") != issuer:
                return None
            answer = await http.get(str(metadata.get("jwks_uri")))
            return KeySet.import_key_set(answer.json())
    except (httpx2.HTTPError, ValidationError, ValueError, JoseError):
        return None


def _answer(sandbox: Sandbox, call: SimulatedCall, name: str) -> Response:
    market = sandbox.market
    entry = sandbox.books.write(FACE, sandbox.clock.now(), call=name, outcome="ok")
    try:
        claims = _verify(market, call.bearer, now=sandbox.clock.now())
        entry.update({claim: claims.get(claim) for claim in ("iss", "aud", "sub", "azp", "act", "scope")})
        caller = _Caller(str(claims["sub"]), str(claims["azp"]), frozenset(str(claims["scope"]).split()))
        match name:
            case "quotes":
                return _quote(caller, call.path_params["symbol"], now=sandbox.clock.now())
            case "positions":
                return _positions(market, caller)
            case _:
                return _order(market, caller, call)
    except _BearerRefusal as refused:
        entry["outcome"] = refused.reason
        return refused.answer


def _verify(market: Market, token: str | None, *, now: float) -> Mapping[str, object]:
    """The claims of a valid token (RFC 9068 §4). The key is the issuer's, whatever the token claims."""
    if token is None or market.keys is None:
        raise _BearerRefusal("invalid_token", "no token, or no keys to verify it", status=401)
    try:
        decoded = jwt.decode(token, market.keys, algorithms=["RS256"])
    except (JoseError, ValueError) as error:
        raise _BearerRefusal("invalid_token", "the signature is not the issuer's", status=401) from error
    claims: dict[str, object] = decoded.claims
    expires_at = claims.get("exp")
    wrong = (
        ("type", decoded.header.get("typ") != "at+jwt"),
        ("issuer", claims.get("iss") != market.issuer),
        ("audience", claims.get("aud") != market.audience),
        ("time", not isinstance(expires_at, int) or now >= expires_at),
        ("claims", not all(isinstance(claims.get(name), str) for name in ("sub", "azp", "scope"))),
    )
    for what, is_wrong in wrong:
        if is_wrong:
            raise _BearerRefusal("invalid_token", f"the token's {what} is not right", status=401)
    return claims


def _needs(caller: _Caller, scope: str) -> None:
    if scope not in caller.scopes:
        raise _BearerRefusal("insufficient_scope", f"the token lacks {scope}", status=403)


def _quote(caller: _Caller, symbol: str, *, now: float) -> Response:
    _needs(caller, "quotes:read")
    return JSONResponse(
        {
            "symbol": symbol,
            "price": _price(symbol),
            "currency": "USD",
            "time": datetime.fromtimestamp(now, UTC).isoformat(),
        }
    )


def _price(symbol: str) -> float:
    if symbol not in PRICES:
        raise _BearerRefusal("unknown_symbol", "no such symbol", status=404)
    return PRICES[symbol]


def _positions(market: Market, caller: _Caller) -> Response:
    _needs(caller, "positions:read")
    owned = market.of(caller.subject)
    return JSONResponse({"positions": [{"symbol": name, "quantity": count} for name, count in sorted(owned.items())]})


def _order(market: Market, caller: _Caller, call: SimulatedCall) -> Response:
    _needs(caller, "orders:write")
    side, symbol, quantity = call.text("side"), call.text("symbol") or "", call.arguments.get("quantity")
    if side not in {"buy", "sell"} or not isinstance(quantity, int) or quantity < 1:
        raise _BearerRefusal("invalid_request", "an order has a symbol, a side and a quantity", status=400)
    price, owned = _price(symbol), market.of(caller.subject)
    left = owned.get(symbol, 0) + (quantity if side == "buy" else -quantity)
    if left < 0:
        raise _BearerRefusal("not_enough", "more than is owned", status=409)
    owned[symbol] = left
    market.orders += 1
    return JSONResponse(
        {
            "id": f"order-{market.orders}",
            "symbol": symbol,
            "side": side,
            "quantity": quantity,
            "price": price,
            "currency": "USD",
            "status": "filled",
        },
        status_code=201,
    )
