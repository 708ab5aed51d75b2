"""`init`: create an empty vault, to set it up before the first start."""

from __future__ import annotations

from server.terminal.context import Setup


def init(setup: Setup) -> None:
    """Create an empty vault, as `serve`, `stdio`, and `demo` do on their own."""

    async def make() -> dict[str, object]:
        async with setup.open(creates=True) as deployment:
            config = setup.config or deployment.data / "config.toml"
            return {"data": str(deployment.data), "settings_file": str(config), "vault": deployment.vault_id}

    setup.show_fields(setup.run(make()))
