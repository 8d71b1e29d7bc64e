"""What measurements mean: tolerance, noise, and which change is to blame."""
