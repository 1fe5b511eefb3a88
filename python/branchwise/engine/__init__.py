"""The step engine: many branches of many trees decoded in one batch. It knows nothing of search."""
