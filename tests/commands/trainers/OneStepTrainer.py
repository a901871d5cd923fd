"""nnU-Net's own AdamW trainer cut to one step, to stand beside ours; in a folder of external trainers of its own."""

from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring
from nnunetv2.training.nnUNetTrainer.variants.optimizer.nnUNetTrainerAdam import nnUNetTrainerAdam1en3


class OneStepTrainer(nnUNetTrainerAdam1en3, nnUNetTrainerNoMirroring):
    def initialize(self) -> None:
        self.num_epochs = self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = 1
        super().initialize()
