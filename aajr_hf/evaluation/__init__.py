"""Robust evaluation: attacks stronger than those of training, comparison, and reports with plots."""
