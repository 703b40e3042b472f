"""A soak: mixed traffic, conflicting writers, clients that vanish, bad input, and a book of what must be true."""
