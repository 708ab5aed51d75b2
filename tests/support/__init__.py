"""Test infrastructure: fixtures with a running vault, doubles of the outside, people, processes."""
