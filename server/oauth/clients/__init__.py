"""OAuth clients: registration, metadata documents, authentication, keys."""
