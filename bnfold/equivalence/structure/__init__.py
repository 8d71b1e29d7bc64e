"""What the two model files hold, read without running anything."""
