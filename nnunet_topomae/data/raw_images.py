"""Whether image files are whole, also when they are written. ITK fills in what a cut file lacks, without a word.

What is compressed is decompressed, to its checksum, and lengths are compared with the header's, by the format's reader
if it does so. What is not compressed has no checksum: a changed voxel cannot be told from a voxel.
"""

from __future__ import annotations

import gzip
import logging
import math
import re
import zlib
from collections.abc import Callable, Iterable
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import nibabel
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnunet_topomae.data.dataset_json import read_dataset_json
from nnunet_topomae.data.raw_files import apples_note, file_fault, labels_by_case
from nnunet_topomae.files import written_whole

CHUNK = 1 << 20  # bytes read at once
GIPL_HEADER = 256  # bytes
# Of NRRD and MetaImage.
HEADER_END = re.compile(rb"\r?\n\r?\n|ElementDataFile *= *LOCAL *\r?\n")
COMPRESSED = re.compile(rb"(?im)^(encoding: *gz(ip)?|CompressedData *= *True)\s*$")
DATA_FILE = re.compile(rb"(?im)^(?:data ?file:|ElementDataFile *=)(?! *(?:LOCAL|LIST)) *([^%\r\n]+?)\s*$")
ADVICE = "Restore these from where they came"


class DamagedImageError(ValueError):
    """The message names every image that is not whole."""


def require_whole(files: Iterable[str | Path]) -> None:
    """Raises DamagedImageError where one of the files is not whole; it names all of them."""
    faults = {file: fault for file in map(Path, files) if (fault := image_fault(file))}
    if faults:
        named = "; ".join(f"{file} {fault}" for file, fault in faults.items())
        raise DamagedImageError(f"{named}. {ADVICE}" if len(faults) > 1 else named)


def require_whole_dataset(raw: Path) -> None:
    """`require_whole` of all images and labels of a raw dataset in nnU-Net's format."""
    ending = read_dataset_json(raw)["file_ending"]
    folders = [raw / name for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs")]
    if notes := [note for folder in folders if (note := apples_note(folder, ending))]:
        raise DamagedImageError("; ".join(notes))
    require_whole(file for folder in folders for file in labels_by_case(folder, ending).values())


def write_image(file: Path, image: sitk.Image) -> None:
    """Write CASE.nii.gz. Raises OSError, also on a full disk, where SimpleITK cuts the file short without a word."""
    with written_whole(file) as partial:
        sitk.WriteImage(image, str(partial))
        if image_fault(partial):
            raise OSError("it was cut short: is the disk full?")


def image_fault(file: Path) -> str:
    """What is wrong with a file, so that "FILE " before it makes a sentence; empty if nothing is.

    It costs one decompression, or one reading. Of formats that are not nnU-Net's, nothing is known.
    """
    if fault := file_fault(file):
        return fault
    name = file.name.lower()
    look = next((look for endings, look in _LOOKS.items() if name.endswith(endings)), None)
    try:
        return look(file) if look else ""
    except (EOFError, OSError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return f"is cut off or damaged ({reason})"
    except Exception as error:  # a damaged header fails in as many ways as there are readers
        return f"cannot be read ({(str(error).strip() or repr(error)).splitlines()[-1]})"


def _nifti(file: Path) -> str:
    voxels = file
    if file.name.lower().endswith((".hdr", ".img")):
        file, voxels = file.with_suffix(".hdr"), file.with_suffix(".img")
    if fault := file_fault(voxels):
        return f"has its voxels in {voxels.name}, which {fault}"
    with _opened(file) as content:
        block = content.read(nibabel.Nifti2Header.sizeof_hdr)
    sizes = [int.from_bytes(block[:4], order) for order in ("little", "big")]
    classes: list[Any] = [nibabel.Nifti1Header, nibabel.Nifti2Header]
    header_class = next((each for each in classes if each.sizeof_hdr in sizes), None)
    if header_class is None:
        return "is no NIfTI file, or is damaged at its beginning"
    if len(block) < header_class.sizeof_hdr:
        return "is cut off within its header"
    header = header_class(block[: header_class.sizeof_hdr], check=False)
    shape, item = header.get_data_shape(), header.get_data_dtype().itemsize
    return _length_fault(voxels, int(header["vox_offset"]), math.prod(shape) * item, math.prod(shape[:-1]) * item)


def _gipl(file: Path) -> str:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    size = reader.GetSize()
    item = sitk.GetArrayViewFromImage(sitk.Image([1] * len(size), reader.GetPixelID())).itemsize
    return _length_fault(file, GIPL_HEADER, math.prod(size) * item, math.prod(size[:-1]) * item)


def _length_fault(file: Path, start: int, num_bytes: int, bytes_of_slice: int) -> str:
    needed, length = start + num_bytes, 0
    with _opened(file) as content:
        while chunk := content.read(CHUNK):
            length += len(chunk)
    if needed <= length < needed + bytes_of_slice:
        return ""
    return f"{'is cut off' if length < needed else 'does not fit'}: its header tells of {needed} bytes, it has {length}"


def _opened(file: Path) -> BufferedIOBase:
    """Decompressed, whatever it is called."""
    with file.open("rb") as content:
        is_compressed = content.read(2) == b"\x1f\x8b"
    return gzip.open(file) if is_compressed else file.open("rb")


def _by_itk(file: Path) -> str:
    """ITK counts the voxels of NRRD and MetaImage, and passes over their checksums."""
    try:
        sitk.ReadImage(str(file))
    except RuntimeError:
        return "is cut off or damaged: ITK cannot read its voxels"
    content = file.read_bytes()
    end = HEADER_END.search(content)
    header, voxels = (content[: end.end()], content[end.end() :]) if end else (content, b"")
    if COMPRESSED.search(header):
        named = DATA_FILE.search(header)
        zlib.decompress(file.with_name(named[1].decode()).read_bytes() if named else voxels, zlib.MAX_WBITS | 32)
    return ""


def _by_pillow(file: Path) -> str:
    with Image.open(file) as picture:
        picture.verify()  # the checksums of PNG
    with Image.open(file) as picture:
        picture.load()
    return ""


def _by_tifffile(file: Path) -> str:
    complaints: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("tifffile")
    log.addHandler(listener)
    try:
        tifffile.imread(file)
    finally:
        log.removeHandler(listener)
    return f"is cut off or damaged ({complaints[0]})" if complaints else ""


_LOOKS: dict[tuple[str, ...], Callable[[Path], str]] = {
    (".nii", ".nii.gz", ".hdr", ".img"): _nifti,
    (".gipl", ".gipl.gz"): _gipl,
    (".mha", ".mhd", ".nrrd", ".nhdr"): _by_itk,
    (".png", ".bmp"): _by_pillow,
    (".tif", ".tiff"): _by_tifffile,
}
