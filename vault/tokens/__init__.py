"""Our refresh tokens: issue, rotate, and judge a used one that comes back."""
