"""Corpora: from what a person has to the manifest."""
