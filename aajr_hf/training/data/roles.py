"""Names of roles in chat templates."""

from __future__ import annotations

_USERS, _TOOLS = ("user", "human"), ("tool", "ipython", "function", "observation", "environment")
# For each choice of `perturbed_tokens` that selects by role: the names of these roles in chat templates.
OBSERVED_ROLES = {"observation": (*_USERS, *_TOOLS), "user": _USERS, "tool": _TOOLS, "incidental": (*_USERS, *_TOOLS)}
# The choice that selects, of what these roles say, only words that the calls do not use. A row may have none.
INCIDENTAL = "incidental"
