"""The `cache` commands: maintenance and comparison of feature caches."""
