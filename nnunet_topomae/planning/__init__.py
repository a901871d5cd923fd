"""Variants of a plan that nnU-Net made: for the memory of a GPU, or as a dataset preset says."""
