"""Confidence that means something, and recordings that are none of the intents."""
