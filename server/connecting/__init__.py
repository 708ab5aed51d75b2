"""Links by which people connect accounts and approve calls."""
