"""Links with which people connect accounts and approve calls."""
