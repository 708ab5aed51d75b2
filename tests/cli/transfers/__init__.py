"""Tests of `import` and `export`, the commands that transfer accounts between vaults."""
