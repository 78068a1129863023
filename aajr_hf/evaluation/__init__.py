"""Measure, compare and report the robustness of agents against an adversary."""
