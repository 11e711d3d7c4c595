"""What calibration costs and what it gains, measured; see benchmarks/README.md."""
