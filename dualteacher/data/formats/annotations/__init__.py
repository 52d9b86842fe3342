"""Polygon annotations of labelling tools, rasterised to index masks by `init`: one module per format."""
