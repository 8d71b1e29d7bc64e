"""Element types, and what a model computes in real arithmetic."""
