"""The report stage: what the systems reached, as a page, pictures and plain data."""
