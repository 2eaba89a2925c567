"""Acoustic embeddings: the frozen encoder, its pretraining, and extraction."""
