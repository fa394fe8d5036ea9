"""What `benchmarks.jct` runs: traces, a GPU cluster on a virtual clock, published policies, the factory's plan."""
