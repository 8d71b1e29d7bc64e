"""What goes into the models: seeded values, sizes of dynamic dimensions, and data of the caller."""
