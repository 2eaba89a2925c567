"""The report stage: a page, figures and data about all systems."""
