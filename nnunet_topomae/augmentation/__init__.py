"""nnU-Net's augmentation on the training device: drawn on the CPU by batchgeneratorsv2's own code, applied anywhere."""
