"""How stages are run: the command line, params.yaml, presets, status."""
