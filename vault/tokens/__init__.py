"""Our refresh tokens: issue, rotate, and what a spent one means when it comes back."""
