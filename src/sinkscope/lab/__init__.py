"""Small models from scratch: corpus, training, the bundled reference model."""
