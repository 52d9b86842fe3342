"""Networks: backbones, heads, weights on disk."""
