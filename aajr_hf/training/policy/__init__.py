"""A language model as a differentiable map from a perturbation to logits, and the losses on those."""
