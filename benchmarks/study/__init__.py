"""A small model with search beside a larger one, on GSM8K: problem files and tables (docs/study.md)."""
