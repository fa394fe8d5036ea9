"""The data registry: uploads, immutable versions, gates."""
