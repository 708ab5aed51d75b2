"""What single services need so that their published descriptions become request rules."""
