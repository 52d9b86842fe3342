"""FixMatch for segmentation (Sohn et al., NeurIPS 2020): no teacher, one strong view."""

from dualteacher.methods.matching import Matching

METHOD = Matching
