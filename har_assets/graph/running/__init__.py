"""Runs: how their steps are executed, and what happens to those whose process has died."""
