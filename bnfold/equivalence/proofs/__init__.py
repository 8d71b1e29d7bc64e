"""What is shown of two model files without running them in a runtime."""
