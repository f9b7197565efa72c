"""Training runs: the Lightning module, its data, callbacks, signals, the run folder, and the loop that joins them."""
