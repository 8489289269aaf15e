"""Side-by-side measurements; those of GPUs also run where the compiler is not installed."""
