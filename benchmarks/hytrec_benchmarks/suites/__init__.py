"""Suites of `hytrec_benchmarks.measure`, one module each."""
