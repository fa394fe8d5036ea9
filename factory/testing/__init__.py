"""Public builders, fakes and one conformance suite per port."""
