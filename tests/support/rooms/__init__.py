"""Running vaults for tests, each with the people, accounts, agents and providers of one subject."""
