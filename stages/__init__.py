"""The pipeline's stages: what is computed, one folder a stage, each with one `run`."""
