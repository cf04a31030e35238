"""Published systems and controls as policies of the one engine; one file each."""

from baselines.registry import POLICIES, find_policy

__all__ = ["POLICIES", "find_policy"]
