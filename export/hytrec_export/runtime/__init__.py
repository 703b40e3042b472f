"""Runs graphs in this process."""
