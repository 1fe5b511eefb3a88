"""What people and programs read of a search: trees, tables with intervals, JSON, and results files that resume."""
