"""`enterprise`: agents that a company's identity provider lets in."""
