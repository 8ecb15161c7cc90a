"""One experiment per file: plain data, imports neither jax nor our code."""
