"""The judgement of measurements: tolerance, noise, and the change that is to blame."""
