"""Optimisation: schedules as functions of the step, parameter groups, the EMA of the target encoder."""
