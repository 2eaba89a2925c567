"""Many students from one copy of the features."""
