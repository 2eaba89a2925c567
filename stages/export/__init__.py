"""Exporting a trained student to a folder that runs without torch."""
