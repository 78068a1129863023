"""The attack on one micro-batch and the penalty along its directions."""
