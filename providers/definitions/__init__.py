"""What a provider's file says: the model, its validation, the catalog, discovery."""
