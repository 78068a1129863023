"""What the rules of trust say of an agent that keeps them."""

from __future__ import annotations

GOOD = {"steps": {"5": 9, "20": 8, "50": 7}, "unbounded": 0, "vanished": 0, "tried": 16, "examples": 16}
