"""Recommendation quality on MovieLens-100K and Amazon Beauty: ablations, baselines, and where HyTRec wins."""
