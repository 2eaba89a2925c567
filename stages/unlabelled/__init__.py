"""Speak sentences that have no label, and encode them."""
