"""Running models: sessions, execution providers, and what stands in for an ONNX reference."""
