"""Puts encoder_decoders, what the tests of such models share, on the path."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
