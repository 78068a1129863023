"""From files, datasets and worlds to the tensors of a batch. This folder does not depend on models."""
