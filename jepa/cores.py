"""How many processors this process may use."""

import os


def cores() -> int:
    """Those that the scheduler or `taskset` has granted, which on a cluster are few of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
