"""Checks of constructed models against their truth, by direct measurement."""
