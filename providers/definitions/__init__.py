"""Provider files: the model, its validation, the catalog, discovery."""
