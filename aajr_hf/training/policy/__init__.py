"""A language model as a differentiable map from a perturbation to logits, and losses of these logits."""
