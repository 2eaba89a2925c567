"""An encoder pretrained on synthetic speech."""
