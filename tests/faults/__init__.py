"""Kills, failing disks, damaged files and two writers at once; docs/reliability.md."""
