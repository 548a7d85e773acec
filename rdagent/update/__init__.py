"""The transparent updater: other versions of the four, itself included, while the rest keep running."""
