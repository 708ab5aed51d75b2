"""What commands show on a terminal: lists, progress, and completed names. Doesn't depend on any command."""
