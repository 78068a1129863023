"""From files, datasets and worlds to the tensors of a batch. Knows no model."""
