"""The pure life of a job: step, retry policy, and the runner's reconcile decision."""
