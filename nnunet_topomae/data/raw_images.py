"""Whether image files are whole. ITK fills in what a cut file lacks, without a word.

Of a compressed file all is decompressed, to its checksum; of others the length is compared with the header's. What is
not compressed has no checksum: a changed voxel cannot be told from a voxel.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import nibabel
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnunet_topomae.data.dataset_json import read_dataset_json
from nnunet_topomae.data.raw_files import apples_note, file_fault, labels_by_case

CHUNK = 1 << 20  # bytes read at once
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


def image_fault(file: Path) -> str:
    """What is wrong with a file, so that "FILE " before it makes a sentence; empty if nothing is.

    It costs one decompression. Of formats that are not nnU-Net's, nothing is known.
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


class _Voxels(NamedTuple):
    """Where the voxels of an image are.

    Attributes:
        file: that holds them.
        needed: bytes from `start` on, uncompressed.
        slice_size: bytes.
        start: bytes of `file` before them; of a negative number, all that is more than needed.
        encoding: of what follows.
    """

    file: Path
    needed: int
    slice_size: int
    start: int = 0
    encoding: str = "raw"


def _length_fault(voxels: _Voxels) -> str:
    if fault := file_fault(voxels.file):
        return f"has its voxels in {voxels.file.name}, which {fault}"
    if voxels.encoding not in ("raw", "gzip", "gz", "bzip2", "bz2", "zlib"):
        return ""  # text: its reader counts
    with voxels.file.open("rb") as file:
        file.seek(max(voxels.start, 0))
        length = sum(map(len, _decompressed(file, voxels.encoding)))
    if length < voxels.needed:
        return f"is cut off: its header tells of {voxels.needed} bytes, and it has {length}"
    if voxels.start >= 0 and length >= voxels.needed + voxels.slice_size:
        return f"does not fit its header, which tells of {voxels.needed} bytes, while it has {length}"
    return ""


def _decompressed(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Chunks. Raises EOFError, OSError or zlib.error where the stream is damaged."""
    if encoding == "zlib":
        stream = zlib.decompressobj()
        while chunk := stream.unconsumed_tail or file.read(CHUNK):
            yield stream.decompress(chunk, CHUNK)
        if not stream.eof:
            raise EOFError("its compressed stream has no end")
        return
    opened: Any = file
    if encoding.startswith("gz"):
        opened = gzip.GzipFile(fileobj=file)
    elif encoding.startswith("bz"):
        opened = bz2.BZ2File(file)
    while chunk := opened.read(CHUNK):
        yield chunk


def _compression(file: Path) -> str:
    with file.open("rb") as content:
        return "gzip" if content.read(2) == b"\x1f\x8b" else "raw"


def _nifti(file: Path) -> str:
    voxels = file
    if file.name.lower().endswith((".hdr", ".img")):
        file, voxels = file.with_suffix(".hdr"), file.with_suffix(".img")
    compression = _compression(file)
    with file.open("rb") as content:
        opened: Any = gzip.GzipFile(fileobj=content) if compression == "gzip" else content
        block = opened.read(nibabel.Nifti2Header.sizeof_hdr)
    is_second = nibabel.Nifti2Header.sizeof_hdr in (int.from_bytes(block[:4], order) for order in ("little", "big"))
    header_class: Any = nibabel.Nifti2Header if is_second else nibabel.Nifti1Header
    if len(block) < header_class.sizeof_hdr:
        return "is cut off within its header"
    header = header_class(block[: header_class.sizeof_hdr], check=False)
    offset, shape, item = int(header["vox_offset"]), header.get_data_shape(), header.get_data_dtype().itemsize
    needed, slice_size = math.prod(shape) * item, math.prod(shape[:-1]) * item
    return _length_fault(_Voxels(voxels, offset + needed, slice_size, 0, compression))


def _size(file: Path) -> tuple[int, int]:
    """Bytes of all voxels and of a slice, as ITK understands the header."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    size = reader.GetSize()
    item = sitk.GetArrayViewFromImage(sitk.Image([1] * len(size), reader.GetPixelID())).itemsize
    item *= reader.GetNumberOfComponents()
    return math.prod(size) * item, math.prod(size[:-1]) * item


def _header(file: Path, separator: str, last: str) -> tuple[dict[str, str], int]:
    """Of the text that a file begins with, up to the line of the key `last`: values by key, and how long it is."""
    keys: dict[str, str] = {}
    with file.open("rb") as content:
        while line := content.readline():
            key, _, value = line.decode("latin-1").partition(separator)
            key = key.strip().lower().replace(" ", "")
            keys[key] = value.strip()
            if key == last:
                break
        return keys, content.tell()


def _metaimage(file: Path) -> str:
    keys, start = _header(file, "=", "elementdatafile")
    where = keys.get("elementdatafile", "")
    if where.upper() == "LIST" or "%" in where:
        return ""  # a file a slice: its reader finds what lacks
    if where.upper() != "LOCAL":
        start = int(keys.get("headersize", 0))
    encoding = "zlib" if keys.get("compresseddata", "").lower() == "true" else "raw"
    voxels = file if where.upper() == "LOCAL" else file.with_name(where)
    return _length_fault(_Voxels(voxels, *_size(file), start, encoding))


def _nrrd(file: Path) -> str:
    keys, start = _header(file, ":", "")
    where, encoding = keys.get("datafile", ""), keys.get("encoding", "raw").lower()
    if where.upper().startswith("LIST") or "%" in where:
        return ""
    if where:
        start = 0
    if encoding == "raw":
        skip = int(keys.get("byteskip", 0))
        start = skip if skip < 0 else start + skip
    return _length_fault(_Voxels(file.with_name(where) if where else file, *_size(file), start, encoding))


def _gipl(file: Path) -> str:
    needed, slice_size = _size(file)
    return _length_fault(_Voxels(file, 256 + needed, slice_size, 0, _compression(file)))


def _picture(file: Path) -> str:
    with Image.open(file) as picture:
        picture.verify()  # the checksums of PNG
    with Image.open(file) as picture:
        picture.load()
    return ""


def _tiff(file: Path) -> str:
    complaints: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("tifffile")
    log.addHandler(listener)
    try:
        with tifffile.TiffFile(file) as pages:
            pages.asarray()
    finally:
        log.removeHandler(listener)
    return f"is cut off or damaged ({complaints[0]})" if complaints else ""


_LOOKS: dict[tuple[str, ...], Callable[[Path], str]] = {
    (".nii", ".nii.gz", ".hdr", ".img"): _nifti,
    (".mha", ".mhd"): _metaimage,
    (".nrrd", ".nhdr"): _nrrd,
    (".gipl", ".gipl.gz"): _gipl,
    (".png", ".bmp"): _picture,
    (".tif", ".tiff"): _tiff,
}
