"""Audio in and out: loading, synthesis, effects."""
