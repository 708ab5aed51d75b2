"""A service without OAuth: people make API keys there, and delete them again."""
