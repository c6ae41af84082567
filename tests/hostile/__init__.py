"""Files as nobody means well with, by the loaders that would get them; `tests/hostile_files.py` tries them."""
