//! Benchmarks of the registry: see `benches/` for the parts and `src/bin/` for whole processes
