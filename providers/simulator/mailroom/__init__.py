"""A service without OAuth, where people create and delete API keys."""
