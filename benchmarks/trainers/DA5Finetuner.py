"""Our fine-tuning under nnU-Net's strongest augmentation: an arm of `few_labels.py`."""

from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5

from nnunet_topomae.training.finetuner import TopoMAEFinetuner


class DA5Finetuner(nnUNetTrainerDA5, TopoMAEFinetuner):
    """Pre-trained; from scratch mix in `TopoMAEFinetunerFromScratch`."""
