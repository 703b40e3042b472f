"""Learned baselines: matrix factorization and SASRec, tuned on the validation part."""
