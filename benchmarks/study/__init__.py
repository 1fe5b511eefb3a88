"""A small model with search beside a larger one: problem files and tables (docs/study.md)."""
