"""Archives in: downloaded, verified, read without unpacking."""
