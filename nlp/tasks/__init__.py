"""Objectives on text."""
