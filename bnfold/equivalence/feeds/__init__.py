"""The feeds of the models: seeded values, sizes of dynamic dimensions, and data of the caller."""
