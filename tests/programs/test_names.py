"""The name of an agent that `token-vault run` starts without a name."""

from __future__ import annotations

import pytest

from server.programs.names import name_of_agent


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("gh api user", "gh"),
        ("/usr/bin/git clone x", "git"),
        ("python3.11 jobs/report.py --all", "report.py"),
        ("node agent.js", "agent.js"),
        ("sh ./backup.sh", "backup.sh"),
        ("npx some-agent", "some-agent"),
        ("python", None),
        ("python -m report", None),
        ("sh -c true", None),
        ("env A=b gh", None),
        ("env python a.py", None),
        ("uv run a.py", None),
        ("timeout 60 gh api user", None),
        ("bun run agent.ts", None),
    ],
)
def test_an_interpreter_gives_its_agent_no_name(command: str, name: str | None) -> None:
    assert name_of_agent(command.split()) == name
