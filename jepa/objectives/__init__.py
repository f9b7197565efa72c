"""Objectives: the forward of one training step, and what is watched beside it."""
