"""State stores: where everything kept of a user lives between calls (DESIGN section 3)."""
