"""Which cases a pre-training learns from: those of its fold, and whatever images there are without labels."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from nnunet_topomae.data.case_facts import read_fingerprints
from nnunet_topomae.data.preprocessing_settings import preprocessing_settings
from nnunet_topomae.data.unlabelled import JoinedDataset, UnlabelledImages, advice, grouped, options_of
from nnunet_topomae.files import read_json
from nnunet_topomae.training.trainer import TopoMAETrainer


class UnlabelledCasesTrainer(TopoMAETrainer):
    """The cases of a split's `train` list are trained on, and, where `splits_final.json` carries one, of its
    `unlabelled` list; so are the images that `nnunet-topomae unlabelled add` has added.
    """

    def do_split(self) -> tuple[list[str], list[str]]:
        train_keys, val_keys = super().do_split()
        in_split = self._unlabelled_in_split()
        leaked = sorted(set(in_split) & set(val_keys))
        if leaked:
            raise ValueError(
                f"in splits_final.json, validation cases of fold {self.fold} are among the unlabelled: "
                f"{', '.join(leaked)}"
            )
        unlabelled = [*in_split, *self._added_without_label()]
        if unlabelled:
            self.print_to_log_file(f"Pre-training on {len(unlabelled)} unlabelled cases too.")
        return sorted({*train_keys, *unlabelled}), val_keys

    @property
    def added_images(self) -> UnlabelledImages:
        """What `nnunet-topomae unlabelled add` has preprocessed."""
        return UnlabelledImages.of(self.preprocessed_dataset_folder_base, self.configuration_manager)

    def _added_without_label(self) -> list[str]:
        """Where an image got a label after it was added, the labelled case wins."""
        labelled = set(self.dataset_class.get_identifiers(self.preprocessed_dataset_folder))
        return [name for name in self.added_images.names if name not in labelled]

    def _unlabelled_in_split(self) -> list[str]:
        if self.fold == "all" or not self.splits_file.is_file():
            return []
        splits = read_json(self.splits_file)
        return splits[self.fold].get("unlabelled", []) if self.fold < len(splits) else []

    def get_tr_and_val_datasets(self) -> tuple[JoinedDataset, JoinedDataset]:
        train_keys, val_keys = self.do_split()
        return self.dataset_of(train_keys), self.dataset_of(val_keys)

    def dataset_of(self, cases: Sequence[str]) -> JoinedDataset:
        """Cases with labels and cases without."""
        added = set(self._added_without_label())
        labelled = super().dataset_of([case for case in cases if case not in added])
        return JoinedDataset(cases, [labelled, self.added_images.dataset([case for case in cases if case in added])])

    def _check_data(self) -> None:
        self._check_added_images()
        super()._check_data()

    def _check_added_images(self) -> None:
        """Raises ValueError for images made by other plans than the labelled ones, or showing validation cases."""
        plans, images, names = self.plans_manager.plans, self.added_images, self._added_without_label()
        now_labelled = sorted(set(images.names) - set(names))
        if now_labelled:
            self.print_to_log_file(
                f"Not the added images, but the labelled cases are used of {', '.join(now_labelled)}"
            )
        settings = preprocessing_settings(plans, self.configuration_name, self.dataset_json)
        faults = {name: fault for name, fault in images.faults(settings).items() if name in names}
        if faults:
            raise ValueError(
                f"unlabelled images in {images.folder} do not fit the labelled ones: {grouped(faults)}. "
                f"{advice(plans, self.configuration_name)}"
            )
        if not names:
            return
        val_keys = self.do_split()[1]
        validation = {voxels: case for case, voxels in read_fingerprints(self.dataset_of(val_keys), val_keys).items()}
        records = {name: images.record(name) for name in names}
        fingerprints = {name: record.fingerprint for name, record in records.items() if record is not None}
        copies = {name: validation[voxels] for name, voxels in fingerprints.items() if voxels in validation}
        if copies:
            raise ValueError(
                "unlabelled images are copies of validation cases "
                f"({', '.join(f'{name} of {case}' for name, case in copies.items())}). Take them out:\n"
                f"  nnunet-topomae unlabelled remove {options_of(plans, self.configuration_name)} {shlex.join(copies)}"
            )
