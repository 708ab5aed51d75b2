"""Tests of connections and messages below the tools: sizes, speeds, addresses, and contradictions."""
