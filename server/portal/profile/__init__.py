"""The person's own account with this vault: how they sign in, where they are signed in, their data, and deletion."""
