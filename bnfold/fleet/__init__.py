"""Many models: one driver, workers in processes of their own, a manifest to go on from, and one report of all."""
