"""The parts of `bench/model_card.py` and `bench/series_card.py`: figures, and their words."""
