"""Output of commands on a terminal: lists, progress, and completed names. Doesn't depend on any command."""
