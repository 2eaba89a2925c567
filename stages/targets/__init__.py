"""The teacher's vectors of the texts, cached."""
