"""Mutated inputs by the thousand, each with the exit codes that are right for it."""
