"""The losses of pre-training, each a term in a small module, and their weighted sum; and the loss of fine-tuning."""
