"""Puts toy_language, for the dotted paths of configs, on the path."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
