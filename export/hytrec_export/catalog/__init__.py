"""The live catalog of a built repository: items that were added and removed since, in rows that the build reserved."""
