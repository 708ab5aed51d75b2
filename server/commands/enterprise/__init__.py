"""`enterprise`: agents that a company's identity provider admits."""
