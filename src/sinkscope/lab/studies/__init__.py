"""Training studies: published experiments on small models trained from scratch."""
