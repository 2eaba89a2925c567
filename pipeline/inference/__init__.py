"""The commands that use an exported model: predict, listen, serve."""
