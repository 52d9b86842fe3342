"""Images in: fetching, packing, partitioning, augmenting, loading."""
