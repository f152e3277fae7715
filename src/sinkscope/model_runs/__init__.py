"""Many models: a sweep over models and settings, one run each, and an index of runs."""
