"""What `nnunet-topomae unlabelled add` does: hours of preprocessing, of which nothing that is done gets lost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset, nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_topomae.data.case_facts import read_fingerprints
from nnunet_topomae.data.dataset_json import channel_names
from nnunet_topomae.data.preprocessing_settings import Settings, preprocessing_settings
from nnunet_topomae.data.raw_files import apples_note, file_fault, images_by_case, labels_by_case
from nnunet_topomae.data.raw_images import DamagedImageError, require_whole
from nnunet_topomae.data.unlabelled import SUFFIXES, Record, UnlabelledImages, advice, grouped
from nnunet_topomae.data.volume_facts import volume_facts
from nnunet_topomae.files import read_json
from nnunet_topomae.planning.plans_file import Plans, configuration_of
from nnunet_topomae.processes import in_processes


class BadImageError(ValueError):
    """An image cannot be pre-trained on. The message says why."""


def add_unlabelled(
    images: str | Path,
    preprocessed_dataset: str | Path,
    plans: Plans,
    configuration_name: str,
    dataset_json: dict[str, Any],
    num_processes: int,
    overwrite: bool = False,
    skip_bad: bool = False,
    report: Callable[[str], None] = print,
) -> list[str]:
    """Preprocess a folder of images named as in imagesTr (CASE_0000.nii.gz, ...); return the names of the cases.

    Each case is there for good as soon as it is done. Those that were done before are left as they are, unless they
    were made by other plans. Bad ones do not keep the others from being done.

    Args:
        images: the folder.
        preprocessed_dataset: of nnU-Net, with labelled cases.
        plans, configuration_name, dataset_json: of the same dataset.
        num_processes: that work at once.
        overwrite: replace what was made from other files of the same names.
        skip_bad: report bad images instead of raising an error for them at the end.
        report: gets a line on what was not done.

    Raises:
        FileNotFoundError: no image there; the dataset is not preprocessed.
        FileExistsError: cases that were made from other files, and `overwrite` is not set.
        BadImageError: without `skip_bad`: images whose names nnU-Net treats apart or that labelled cases have, that
            lack a channel, are damaged, cannot be preprocessed, are not finite, constant or show a validation case.
            What names and links tell is said before any work; else all others are done.
        RuntimeError: a process was killed.
    """
    if num_processes < 1:
        raise ValueError(f"-np {num_processes}: at least one process")
    preprocessed_dataset = Path(preprocessed_dataset)
    configuration = configuration_of(plans, configuration_name)
    settings = preprocessing_settings(plans, configuration_name, dataset_json)
    target = UnlabelledImages.of(preprocessed_dataset, configuration)
    labelled_folder = preprocessed_dataset / configuration.data_identifier
    if not labelled_folder.is_dir():
        raise FileNotFoundError(f"{labelled_folder} does not exist: run nnUNetv2_preprocess first")
    labelled = infer_dataset_class(str(labelled_folder))(str(labelled_folder))
    images, ending = Path(images), dataset_json["file_ending"]
    files = images_by_case(images, ending)
    if note := apples_note(images, ending):
        report(note)
    if not files:
        raise FileNotFoundError(f"{images} holds no image named as nnU-Net wants it, CASE_0000{ending}")
    bad = _bad_names(images, ending, files, len(channel_names(dataset_json)), set(labelled.identifiers))
    if bad and not skip_bad:
        raise BadImageError(f"nothing is added yet: {_these(bad)}")

    present, stale = set(target.names), target.faults(settings)
    strangers = {name: fault for name, fault in stale.items() if name not in files}
    if strangers:
        report(f"Added before, and not usable now: {grouped(strangers)}. {advice(plans, configuration_name)}")
    good = {case: channels for case, channels in files.items() if case and case not in bad}
    done = [] if overwrite else [case for case in good if case in present and case not in stale]
    _refuse_other_files(target, {case: good[case] for case in done})
    to_do = {case: channels for case, channels in good.items() if case not in done}
    if to_do:
        preprocessing = (plans, configuration_name, dataset_json)
        validation = _validation_cases(preprocessed_dataset, labelled)
        bad |= _preprocess_all(to_do, target, settings, validation, num_processes, *preprocessing)
    if done:
        report(f"{len(done)} of {len(files)} images had been added before")
    if bad and not skip_bad:
        raise BadImageError(f"{len(good) - len(bad)} of {len(good)} images are added, the others not: {_these(bad)}")
    if bad:
        report(f"Left out: {grouped(bad)}")
    return [case for case in good if case not in bad]


def _these(bad: Mapping[str, str]) -> str:
    return (
        f"{grouped(bad)}. Mend or remove these and run the command again, which then goes on; or leave them: --skip-bad"
    )


def _bad_names(
    folder: Path, ending: str, files: Mapping[str, Mapping[int, Path]], num_channels: int, labelled: Collection[str]
) -> dict[str, str]:
    """What can be said of names and links before anything is read."""
    named = {file for channels in files.values() for file in channels.values()}
    bad = {
        file.name: f"not named CASE_0000{ending}"
        for file in labels_by_case(folder, ending).values()
        if file not in named
    }
    for case, channels in files.items():
        if not case:
            bad[next(iter(channels.values())).name] = f"not named CASE_0000{ending}"
        elif case.endswith("_seg"):
            bad[case] = "nnU-Net takes what ends in _seg for a label, give these other names"
        elif case in labelled:
            bad[case] = "the dataset has labelled cases of these names, give other images other names"
        elif list(channels) != list(range(num_channels)):
            bad[case] = f"not {num_channels} files (one a channel) in {folder} for"
        elif faults := [f"{file.name} {fault}" for file in channels.values() if (fault := file_fault(file))]:
            bad[case] = ", ".join(faults)
    return bad


def _refuse_other_files(target: UnlabelledImages, files: Mapping[str, Mapping[int, Path]]) -> None:
    records = {case: target.record(case) for case in files}
    others = [case for case, record in records.items() if record is None or record.files != _stamps(case, files[case])]
    if others:
        raise FileExistsError(f"{target.folder} holds these cases already, made from other files: {', '.join(others)}")


def _stamps(case: str, channels: Mapping[int, Path]) -> dict[str, list[int]]:
    """Size in bytes and time of change in ns; of the CASE.json with the spacing of TIFFs, too."""
    files, spacing = [*channels.values()], channels[0].with_name(f"{case}.json")
    if channels[0].suffix in (".tif", ".tiff") and spacing.is_file():
        files.append(spacing)
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def _validation_cases(preprocessed_dataset: Path, labelled: nnUNetBaseDataset) -> dict[str, str]:
    """By fingerprint, the cases on which some fold is validated: where nnU-Net is yet to split, any may be one."""
    split_file = preprocessed_dataset / "splits_final.json"
    cases = labelled.identifiers
    if split_file.is_file():
        cases = sorted({case for fold in read_json(split_file) for case in fold["val"]} & set(cases))
    return {fingerprint: case for case, fingerprint in read_fingerprints(labelled, cases).items()}


def _preprocess(
    folder: str,
    case: str,
    channels: Sequence[str],
    plans: Plans,
    configuration_name: str,
    dataset_json: dict[str, Any],
) -> tuple[str, str]:
    """Writes what nnU-Net's preprocessor makes of an image to `folder`; its fingerprint, and what is wrong with it."""
    configuration, made = configuration_of(plans, configuration_name), Path(folder, case)
    _remove(made)  # what an interrupted run left
    try:
        require_whole(channels)
        configuration.preprocessor_class(verbose=False).run_case_save(
            str(made), channels, None, PlansManager(plans), configuration, dataset_json
        )
        facts = volume_facts(nnUNetDatasetBlosc2(folder, [case]).load_case(case)[0])
    except DamagedImageError as error:
        return "", str(error)
    except Exception as error:  # images are odd in as many ways as there are readers
        return "", f"cannot be preprocessed ({type(error).__name__}: {error})"
    if facts.non_finite:
        return "", f"{facts.non_finite} voxels are NaN or infinite"
    if facts.lowest == facts.highest:
        return "", "all voxels have one value, so that nothing can be learnt from them"
    return str(facts.fingerprint), ""


def _preprocess_all(
    to_do: Mapping[str, Mapping[int, Path]],
    target: UnlabelledImages,
    settings: Settings,
    validation: Mapping[str, str],
    num_processes: int,
    *preprocessing: Any,
) -> dict[str, str]:
    """Adds each image as soon as it is done; returns what is wrong with those that are not, by name.

    Args:
        preprocessing: the last arguments of `_preprocess`.
    """
    bad, partial = {}, target.folder.with_name(f"{target.folder.name}_partial")
    stamps = {case: _stamps(case, channels) for case, channels in to_do.items()}
    partial.mkdir(exist_ok=True)
    tasks = {
        case: (str(partial), case, list(map(str, channels.values())), *preprocessing)
        for case, channels in to_do.items()
    }
    try:
        with closing(in_processes(_preprocess, tasks, num_processes, "Preprocessing")) as outcomes:
            for case, (fingerprint, fault) in outcomes:
                if fingerprint in validation:
                    fault = f"the same image as validation case {validation[fingerprint]}"
                if fault:
                    bad[case] = fault
                else:
                    target.put(case, partial / case, Record(settings, fingerprint, stamps[case]))
                _remove(partial / case)
    except RuntimeError as error:
        raise RuntimeError(f"{error}. What was done is kept: given again, the command goes on") from error
    finally:
        with suppress(OSError):  # something is left of an interrupted run
            partial.rmdir()
    return bad


def _remove(made: Path) -> None:
    for suffix in SUFFIXES:
        made.with_name(f"{made.name}{suffix}").unlink(missing_ok=True)
