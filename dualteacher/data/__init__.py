"""Data: download, packs, partitions, augmentation, loading."""
