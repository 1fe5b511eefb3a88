"""Scoring steps with process reward models."""
