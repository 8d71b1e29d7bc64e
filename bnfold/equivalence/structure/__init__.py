"""The content of the two model files, read without running anything."""
