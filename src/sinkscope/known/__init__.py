"""Models and series whose answer is known, and checks of them."""
