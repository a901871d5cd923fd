"""Images that nobody has labelled: preprocessed as nnU-Net's plan says, kept apart from the labelled cases.

They lie beside the labelled cases' folder, not in it: nnU-Net's own trainers take every case there for a labelled one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from nnunetv2.utilities.utils import (
    create_lists_from_splitted_dataset_folder,
    get_identifiers_from_splitted_dataset_folder,
)
from tqdm import tqdm

from nnunet_topomae.planning.plans_file import Plans, configuration_of


def unlabelled_folder(preprocessed_dataset: str | Path, configuration: ConfigurationManager) -> Path:
    """Where the preprocessed unlabelled cases of a configuration are."""
    return Path(preprocessed_dataset, f"{configuration.data_identifier}_unlabelled")


def add_unlabelled(
    images: str | Path,
    preprocessed_dataset: str | Path,
    plans: Plans,
    configuration_name: str,
    dataset_json: dict[str, Any],
    num_processes: int,
    overwrite: bool = False,
) -> list[str]:
    """Preprocess a folder of images named as in imagesTr (CASE_0000.nii.gz, ...); return the names of the cases.

    They appear together at the end, or, where one cannot be read, not at all.

    Raises:
        FileNotFoundError: no image there.
        FileExistsError: cases that were added before, and `overwrite` is not set.
        ValueError: a case named as a labelled one, or without one of its channels, or that cannot be preprocessed.
    """
    configuration = configuration_of(plans, configuration_name)
    files = _images_of_cases(Path(images), dataset_json)
    _refuse_labelled(files, Path(preprocessed_dataset, configuration.data_identifier))
    target = unlabelled_folder(preprocessed_dataset, configuration)
    present = sorted(case for case in files if (target / f"{case}.pkl").exists())
    if present and not overwrite:
        raise FileExistsError(f"{target} holds these cases already: {', '.join(present)}")
    with TemporaryDirectory(prefix=f"{target.name}_partial_", dir=target.parent) as partial:
        tasks = [(partial, case, channels, plans, configuration_name, dataset_json) for case, channels in files.items()]
        _in_processes(tasks, num_processes)
        target.mkdir(exist_ok=True)
        for file in sorted(Path(partial).iterdir()):
            file.replace(target / file.name)
    return list(files)


class JoinedDataset:
    """Cases out of several preprocessed folders, as far as nnU-Net's data loader looks at a data set."""

    def __init__(self, cases: Sequence[str], parts: Sequence[nnUNetBaseDataset]) -> None:
        self.source_folder = " and ".join(part.source_folder for part in parts if part.identifiers)
        self.identifiers = list(cases)
        self._part_of = {case: part for part in parts for case in part.identifiers}

    def load_case(self, identifier: str) -> tuple:
        return self._part_of[identifier].load_case(identifier)


def unlabelled_dataset(folder: Path) -> nnUNetBaseDataset:
    """The cases that `add_unlabelled` has written there; none where there is no such folder."""
    cases = nnUNetDatasetBlosc2.get_identifiers(str(folder)) if folder.is_dir() else []
    return nnUNetDatasetBlosc2(str(folder), cases)


def _images_of_cases(folder: Path, dataset_json: dict[str, Any]) -> dict[str, list[str]]:
    ending = dataset_json["file_ending"]
    num_channels = len(dataset_json["channel_names"])
    if not any(folder.glob(f"*_[0-9][0-9][0-9][0-9]{ending}")):
        raise FileNotFoundError(f"{folder} holds no image named as nnU-Net wants it, CASE_0000{ending}")
    cases = get_identifiers_from_splitted_dataset_folder(str(folder), ending)
    files = dict(zip(cases, create_lists_from_splitted_dataset_folder(str(folder), ending, cases), strict=True))
    incomplete = sorted(case for case, channels in files.items() if len(channels) != num_channels)
    if incomplete:
        raise ValueError(f"not {num_channels} files (one a channel) in {folder} for: {', '.join(incomplete)}")
    return files


def _refuse_labelled(cases: dict[str, list[str]], labelled_folder: Path) -> None:
    if not labelled_folder.is_dir():
        raise FileNotFoundError(f"{labelled_folder} does not exist: run nnUNetv2_preprocess first")
    labelled = {file.stem for file in labelled_folder.glob("*.pkl")}
    both = sorted(labelled & set(cases))
    if both:
        raise ValueError(
            f"the dataset has labelled cases of these names: {', '.join(both)}. They may serve for validation, so none "
            "is taken twice: give other images other names"
        )


def _in_processes(tasks: list[tuple], num_processes: int) -> None:
    with ProcessPoolExecutor(num_processes, get_context("spawn")) as pool:
        futures = [pool.submit(_preprocess, *task) for task in tasks]
        try:
            for future in tqdm(as_completed(futures), total=len(tasks), desc="Preprocessing", disable=None):
                future.result()
        except Exception:
            pool.shutdown(cancel_futures=True)
            raise


def _preprocess(
    folder: str, case: str, channels: list[str], plans: Plans, configuration_name: str, dataset_json: dict[str, Any]
) -> None:
    configuration = configuration_of(plans, configuration_name)
    preprocessor = configuration.preprocessor_class(verbose=False)
    try:
        preprocessor.run_case_save(
            str(Path(folder, case)), channels, None, PlansManager(plans), configuration, dataset_json
        )
    except Exception as error:  # a broken file fails in as many ways as there are readers
        raise ValueError(f"case {case} cannot be preprocessed ({type(error).__name__}: {error})") from error
