"""Cards, plots, HTML reports, comparisons, exports and publication of finished runs."""
