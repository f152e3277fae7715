"""The parts of `bench/trust.py`: each draws what is known and holds an answer against it."""
