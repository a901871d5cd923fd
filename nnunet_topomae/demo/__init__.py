"""The whole method on a phantom, or on another small data set, in minutes: `nnunet-topomae demo`."""
