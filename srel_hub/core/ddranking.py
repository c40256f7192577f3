"""DD-Ranking's scores (Li et al., 2025, arXiv 2505.13300) from accuracies in [0, 1].

The package `ddranking` 0.2.0 puts percent into these formulas, so that its label-robust scores are of another scale.
"""

import math


WEIGHT = 0.5  # of both terms, as on their leaderboard


def hard_label_recovery(real_hard: float, condensed_hard: float) -> float:
    """HLR = acc(all real, hard) - acc(condensed, hard); smaller is better."""
    return real_hard - condensed_hard


def improvement_over_random(condensed: float, random_real: float) -> float:
    """IOR = acc(condensed, own labels) - acc(random real, the same protocol); larger is better."""
    return condensed - random_real


def label_robust_score(hlr: float, ior: float, w: float = WEIGHT) -> float:
    """LRS in [0, 1] of w IOR - (1 - w) HLR."""
    return _scaled(w * ior - (1 - w) * hlr)


def augmentation_robust_score(ior: float, ior_whole: float, g: float = WEIGHT) -> float:
    """ARS in [0, 1] of g IOR (augmented) + (1 - g) IOR (whole images)."""
    return _scaled(g * ior + (1 - g) * ior_whole)


def _scaled(alpha: float) -> float:
    """(e^a - e^-1) / (e - e^-1): 0 at -1, 1 at 1."""
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
