"""First steps: tensors, gradients, a first model."""
