"""The Hub, the model card, and the results of evaluations."""
