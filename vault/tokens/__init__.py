"""Our refresh tokens: issue them, rotate them, and decide about a used one that comes back."""
