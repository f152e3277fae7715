"""What `timeline` found, as pictures and words."""
