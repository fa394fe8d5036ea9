"""Wire models shared by API, SDK, runner and worker."""
