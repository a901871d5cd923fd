"""The step of pre-training, and nnU-Net trainers that hang it, and fine-tuning, on nnU-Net's hooks."""
