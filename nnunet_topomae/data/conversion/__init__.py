"""Public datasets in their original layout to nnU-Net's raw format."""
