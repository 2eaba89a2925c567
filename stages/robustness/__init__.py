"""How well students classify degraded recordings."""
