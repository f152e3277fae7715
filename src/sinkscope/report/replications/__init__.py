"""Replicated experiments beside their published numbers."""
