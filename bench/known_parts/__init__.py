"""The parts of `bench/known_answers.py`: intervals held against other windows, and the floors."""
