"""JWTs: strict reading, the allowed algorithms, and the key sets of issuers."""
