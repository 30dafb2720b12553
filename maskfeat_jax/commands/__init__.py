"""Words of `main.py` besides training: one module each, with one public function."""
