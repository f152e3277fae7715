"""The parts of bench/scale.py, a module each."""
