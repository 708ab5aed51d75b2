"""`scim ...`: a company's directory."""
