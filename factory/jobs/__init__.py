"""Submit, list, cancel and report on jobs."""
