"""How people are recognized in a browser: sessions and passkeys."""
