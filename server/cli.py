"""All commands of `token-vault`, from `server.commands`. `--help` loads no other product code."""

from __future__ import annotations

from server.commands import (
    activity,
    apis,
    approvals,
    backup,
    bench,
    client_config,
    clients,
    connections,
    delegations,
    demo,
    doctor,
    explain,
    init,
    keys,
    openid,
    providers,
    quarantine,
    restore,
    run,
    serve,
    sign_in,
    status,
    stdio,
    tools,
    try_exchange,
    users,
    version,
)
from server.commands.apply import apply
from server.commands.enterprise import enterprise
from server.commands.errors.codes import errors
from server.commands.export import export
from server.commands.groups import membership
from server.commands.import_ import files as import_files
from server.commands.mcp import servers as mcp_servers
from server.commands.panic import panic
from server.commands.policy import rules as policy_rules
from server.commands.receipts import receipts
from server.commands.requests import access_requests
from server.commands.scim import directories
from server.commands.signals.streams import signals
from server.commands.webhooks import endpoints as webhooks
from server.terminal.context import command
from server.terminal.root import make_app

app = make_app()

command(app, "serve")(serve.serve)
command(app, "stdio")(stdio.stdio)
command(app, "run")(run.run)
command(app, "demo")(demo.demo)
command(app, "init")(init.init)
command(app, "version")(version.version)
command(app, "client-config")(client_config.client_config)
command(app, "doctor")(doctor.doctor)
command(app, "status")(status.status)
command(app, "explain")(explain.explain)
command(app, "errors")(errors)
command(app, "sign-in")(sign_in.sign_in)
command(app, "try-exchange")(try_exchange.try_exchange)
command(app, "apply")(apply.apply)
command(app, "bench")(bench.bench)
command(app, "backup")(backup.backup)
command(app, "restore")(restore.restore)
command(app, "export")(export.export)
command(app, "quarantine")(quarantine.quarantine)
command(app, "panic")(panic.panic)
app.add_typer(activity.app, name="activity")
app.add_typer(users.app, name="users")
app.add_typer(membership.app, name="groups")
app.add_typer(directories.app, name="scim")
app.add_typer(clients.app, name="clients")
app.add_typer(apis.app, name="apis")
app.add_typer(connections.app, name="connections")
app.add_typer(import_files.app, name="import")
app.add_typer(approvals.app, name="approvals")
app.add_typer(access_requests.app, name="requests")
app.add_typer(delegations.app, name="delegations")
app.add_typer(providers.app, name="providers")
app.add_typer(mcp_servers.app, name="mcp")
app.add_typer(openid.app, name="openid")
app.add_typer(enterprise.app, name="enterprise")
app.add_typer(tools.app, name="tools")
app.add_typer(policy_rules.app, name="policy")
app.add_typer(keys.app, name="keys")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(signals, name="signals")
app.add_typer(receipts.app, name="receipts")


def main() -> None:
    """Run the command that the command line names."""
    app(prog_name="token-vault")
