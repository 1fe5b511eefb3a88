"""The decoder: one implementation, a table of families."""
