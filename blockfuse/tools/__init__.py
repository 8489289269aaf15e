"""Around the compiler: benchmark, demo, the state of this machine."""
