"""The servers that the measurements compare, and their upstream. Each runs in its own process."""
