"""Interventions: edits, the engine that runs them, and what is read while they are in place."""
