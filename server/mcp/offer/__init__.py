"""The tools that an agent sees: which ones, how they are listed and found, and the vault's own."""
