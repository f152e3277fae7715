"""Models whose answer is known, and checks of them."""
