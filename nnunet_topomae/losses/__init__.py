"""The four losses of pre-training, each a small module, and their weighted sum; and the loss of fine-tuning."""
