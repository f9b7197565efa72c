"""Masks: which tokens are seen, which are predicted."""
