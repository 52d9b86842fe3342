"""Active learning: choose images to label, exchange masks with annotation tools, take corrections back."""
