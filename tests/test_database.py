from vault.audit import Activity, append, list_events, verify
from vault.database import Database
from vault.keys import KeyRing
from vault.limits import spend
from vault.records import Event
from vault.replay import first_use


async def test_smoke(database: Database, key_ring: KeyRing, activity: Activity) -> None:
    async with database.transaction() as transaction:
        key = await key_ring.create_keys(transaction, user_id="u", connection_id="c", now=1)
    sealed = key.seal("x", purpose="refresh_token", provider="p", account="a", generation=1)
    again = await key_ring.load_key(database, user_id="u", connection_id="c")
    assert again.open(sealed, purpose="refresh_token", provider="p", account="a", generation=1) == "x"
    await activity.record(Event("tool.called", user_id="u"))
    async with database.transaction() as transaction:
        assert await spend(transaction, "b", limit=1, window=60, now=100)
        assert not await spend(transaction, "b", limit=1, window=60, now=100)
        assert await first_use(transaction, "jti", "v", expires_at=10, now=1)
        assert not await first_use(transaction, "jti", "v", expires_at=10, now=1)
        await append(transaction, Event("grant.revoked"), now=3)
    assert await verify(database) == 2
    assert len(await list_events(database, user_id="u")) == 1
    assert len(await list_events(database, newest_first=True)) == 2
    assert key_ring.signing.current(database.now()).kid
