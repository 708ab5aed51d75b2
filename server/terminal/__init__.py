"""What commands show on a terminal: lists, progress, and the names that a shell completes. Knows no command."""
