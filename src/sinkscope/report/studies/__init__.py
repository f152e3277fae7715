"""What a training study found, as tables, pictures and words."""
