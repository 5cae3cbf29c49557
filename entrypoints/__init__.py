"""Command-line entry points, one per step of a study."""
