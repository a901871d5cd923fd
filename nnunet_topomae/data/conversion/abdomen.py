"""The abdominal CTs of "Multi-Atlas Labeling Beyond the Cranial Vault" (Synapse syn3193805) to nnU-Net's raw format.

The literature uses the same 30 labelled volumes under two names: BTCV with all 13 organs, and Synapse with 8 of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

from nnunet_topomae.data.conversion.new_dataset import new_dataset
from nnunet_topomae.data.raw_images import require_whole, write_image

ENDING = ".nii.gz"
HOME = "https://www.synapse.org/Synapse:syn3193805"
LABELLED_FOLDERS = ("", "Training", "RawData/Training")
UNLABELLED_FOLDERS = ("Testing", "RawData/Testing")

ORGANS = (  # the value of an organ in the original files is its place here
    "background",
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal vein and splenic vein",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)
SYNAPSE_ORGANS = (  # in TransUNet's order
    "background",
    "aorta",
    "gallbladder",
    "left kidney",
    "right kidney",
    "liver",
    "pancreas",
    "spleen",
    "stomach",
)


# Name of the dataset's folder, and the organs that are kept.
DATASETS = {"synapse": ("Synapse", SYNAPSE_ORGANS), "btcv": ("BTCV", ORGANS)}


def convert_abdomen(source: str | Path, raw: str | Path, dataset_id: int, dataset: str) -> Path:
    """Write `Dataset<ID>_<Name>` from `img/img00xx.nii.gz` and `label/label00xx.nii.gz`; return its folder.

    Cases keep their names (img0001, ...). Images are copied byte for byte, and so are labels if all organs are kept;
    unlabelled images of `Testing/img` go to imagesTs. The dataset appears whole or not at all.

    Args:
        source: the folder with `img` and `label`, or with `Training/img` (and `Testing/img`), or with `RawData`.
        raw: nnU-Net's folder of raw datasets.
        dataset_id: of nnU-Net.
        dataset: key of `DATASETS`.

    Raises:
        FileExistsError: nnU-Net has a dataset with this id.
        FileNotFoundError: no such folders; an image without label, or a label without image.
        ValueError: damaged files; a label of another size than its image, or with values that are no organ.
    """
    source, raw = Path(source), Path(raw)
    name, organs = DATASETS[dataset]
    with new_dataset(raw, dataset_id, name) as folder:
        pairs, unlabelled = _pairs(source), _unlabelled(source)
        require_whole([file for pair in pairs.values() for file in pair] + unlabelled)
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir()
        faults = []
        for case, (image, label) in pairs.items():
            shutil.copyfile(image, folder / "imagesTr" / f"{case}_0000{ENDING}")
            try:
                _convert_label(image, label, folder / "labelsTr" / f"{case}{ENDING}", organs)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("; ".join(faults))
        for image in unlabelled:
            (folder / "imagesTs").mkdir(exist_ok=True)
            shutil.copyfile(image, folder / "imagesTs" / f"{image.name.removesuffix(ENDING)}_0000{ENDING}")
        generate_dataset_json(
            str(folder),
            channel_names={0: "CT"},
            labels={organ: value for value, organ in enumerate(organs)},
            num_training_cases=len(pairs),
            file_ending=ENDING,
            dataset_name=name,
            reference=HOME,
            license="see the challenge's page",
            converted_by="nnunet-topomae",
        )
    return raw / folder.name


def _pairs(source: Path) -> dict[str, tuple[Path, Path]]:
    """Image and label of each case."""
    for folder in (source / name for name in LABELLED_FOLDERS):
        images = {path.name.removeprefix("img"): path for path in sorted(folder.glob(f"img/img*{ENDING}"))}
        labels = {path.name.removeprefix("label"): path for path in sorted(folder.glob(f"label/label*{ENDING}"))}
        if images or labels:
            break
    else:
        raise FileNotFoundError(
            f"no img/img*{ENDING} in {source} nor in its folder Training: name the one that has img"
        )
    faults = [f"without label: {images[number]}" for number in images if number not in labels]
    faults += [f"without image: {labels[number]}" for number in labels if number not in images]
    if faults:
        raise FileNotFoundError("; ".join(faults))
    return {images[number].name.removesuffix(ENDING): (images[number], labels[number]) for number in images}


def _unlabelled(source: Path) -> list[Path]:
    return sorted(path for name in UNLABELLED_FOLDERS for path in (source / name).glob(f"img/img*{ENDING}"))


def _convert_label(image: Path, label: Path, target: Path, organs: tuple[str, ...]) -> None:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(image))
    reader.ReadImageInformation()
    original = sitk.ReadImage(str(label))
    if original.GetSize() != reader.GetSize():
        raise ValueError(f"{label} has size {original.GetSize()}, but {image} has {reader.GetSize()}")
    values = sitk.GetArrayFromImage(original)
    unknown = sorted(set(np.unique(values).tolist()) - set(range(len(ORGANS))))
    if unknown:
        raise ValueError(f"{label} has values that are no organ: {unknown}; known are 0 to {len(ORGANS) - 1}")
    if organs == ORGANS:
        shutil.copyfile(label, target)
        return
    new_value = np.array([organs.index(organ) if organ in organs else 0 for organ in ORGANS], np.uint8)
    mapped = sitk.GetImageFromArray(new_value[values.astype(np.uint8)])
    mapped.CopyInformation(original)
    write_image(target, mapped)
