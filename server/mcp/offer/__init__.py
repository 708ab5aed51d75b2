"""The tools that an agent is offered: which ones, how they are listed and found, and the vault's own."""
