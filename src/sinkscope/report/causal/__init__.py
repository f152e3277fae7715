"""What `verify` found, as tables, pictures and words."""
