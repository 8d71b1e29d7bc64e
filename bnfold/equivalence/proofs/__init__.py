"""Proofs on two model files, without running them in a runtime."""
