"""MCP servers that the vault runs itself: one process for each person and agent, in a sandbox.

`pool` starts and ends them, `process` is one process with its session, `sandbox` defines what it sees of this machine,
and `turns` what it can reach during a tool call. `inside` runs in the sandbox before the program.
"""
