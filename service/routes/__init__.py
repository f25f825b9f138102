"""One module per group of endpoints: HTTP in, HTTP out, nothing else."""
