"""Kills, failing disks, damaged files, two processes at once: docs/reliability.md."""
