"""What to compute: jobs, their parameters and the code that travels."""
