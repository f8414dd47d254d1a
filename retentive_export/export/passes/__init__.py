"""Graph passes, one idea a file; each states whether it works in place, what it needs and what it guarantees."""
