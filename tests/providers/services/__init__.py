"""Request rules of single services, made from their published documents: special cases, and what reads them."""
