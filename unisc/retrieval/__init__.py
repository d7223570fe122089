"""Finding items of a whole catalogue by inner product: exactly on the device, and by an index on disk."""
