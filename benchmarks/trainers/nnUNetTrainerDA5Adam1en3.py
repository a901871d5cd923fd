"""nnU-Net's strongest augmentation under its AdamW: an arm of `few_labels.py`, to hold another scanner against."""

from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam1en3


class nnUNetTrainerDA5Adam1en3(nnUNetTrainerDA5, nnUNetTrainerAdam1en3):  # noqa: N801
    """Both of nnU-Net's own variants in one."""
