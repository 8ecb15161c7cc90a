"""Architectures of language models, one per file."""
