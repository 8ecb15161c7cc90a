"""One loop and one step for every objective. Domain-free: imports nothing of ours."""
