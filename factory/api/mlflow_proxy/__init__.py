"""MLflow's REST API behind our auth: allow-listed routes, each naming its tenant rule; everything else is 404."""
