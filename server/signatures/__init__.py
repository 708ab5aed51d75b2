"""Who signed a JWT: strict reading, the algorithms that count, and the key sets of others."""
