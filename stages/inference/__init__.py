"""Running what was exported. Needs numpy, onnxruntime and soundfile, not torch."""
