"""The Hub and the model card, and what an evaluation leaves for it."""
