"""In which order the jobs of a queue get the slots of a pool: one module of named rules for each policy."""
