"""FixMatch for segmentation (Sohn et al., NeurIPS 2020): no teacher, one strong view."""

from dualteacher.methods.matching import Matching


class FixMatch(Matching):
    """One strong view, in one student pass."""

    views = 1


METHOD = FixMatch
