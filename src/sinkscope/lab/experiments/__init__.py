"""Experiments: the same training in several variants, each with seeds, measured alike."""
