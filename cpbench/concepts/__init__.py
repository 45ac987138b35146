"""Sequences of concepts, and their pictures."""
