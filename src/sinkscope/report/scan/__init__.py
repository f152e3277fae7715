"""What `scan` found, as tables, pictures and words."""
