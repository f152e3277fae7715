"""What `trace` found, as tables, pictures and words."""
