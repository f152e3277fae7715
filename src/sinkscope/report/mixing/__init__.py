"""What `mix` found, as tables, pictures and words."""
