"""How fast the project is, beside its peers and by phase: `python -m benchmarks`."""
