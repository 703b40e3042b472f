"""Graphs against PyTorch."""
