"""The scores of DD-Ranking (Li et al., 2025, arXiv 2505.13300), from accuracies in [0, 1].

The package `ddranking` 0.2.0 puts percentages into these formulas, so its label-robust scores have another scale.
"""

import math


WEIGHT = 0.5  # of both terms, as on the DD-Ranking leaderboard


def hard_label_recovery(real_hard: float, condensed_hard: float) -> float:
    """Return HLR = acc(all real images, hard labels) - acc(condensed images, hard labels). Smaller is better."""
    return real_hard - condensed_hard


def improvement_over_random(condensed: float, random_real: float) -> float:
    """Return IOR = acc(condensed) - acc(random real), both with the method's labels. Larger is better."""
    return condensed - random_real


def label_robust_score(hlr: float, ior: float, w: float = WEIGHT) -> float:
    """Return LRS, the scaled value of w IOR - (1 - w) HLR, in [0, 1]. Larger is better."""
    return _scaled(w * ior - (1 - w) * hlr)


def augmentation_robust_score(ior: float, ior_whole: float, g: float = WEIGHT) -> float:
    """Return ARS, the scaled value of g IOR + (1 - g) IOR_whole, in [0, 1]. Larger is better.

    Args:
        ior: improvement over random with augmentation.
        ior_whole: improvement over random on whole images, without augmentation.
        g: weight of the first.
    """
    return _scaled(g * ior + (1 - g) * ior_whole)


def _scaled(alpha: float) -> float:
    """Return (e^alpha - e^-1) / (e - e^-1), which maps [-1, 1] to [0, 1]."""
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
