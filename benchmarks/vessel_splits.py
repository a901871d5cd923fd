"""few_label_splits.json of Dataset020_Vessels by animal, for `few_labels.py --splits FILE`.

    python benchmarks/vessel_splits.py $nnUNet_raw/Dataset020_Vessels/stacks.json FILE

A stack's quarters stay together, and so do the stacks of one animal. Labelled are 2 and 4 quarters of other stacks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_topomae.files import read_json, write_json

VALIDATION = ("burgess2014_bbbDisruption", "poon2015_plaqueVessels")
ONE_ANIMAL = ("santos2015_lowContrastVessels", "santos2015_mixedSizelowContrastVessels")


def splits_by_animal(stacks: dict[str, list[str]], val: set[str]) -> dict[str, dict[str, list[str]]]:
    """By number of labels `labelled`, nested, `unlabelled` and the cases of the stacks `val`."""
    if len(val.intersection(ONE_ANIMAL)) == 1:
        raise ValueError(f"{' and '.join(ONE_ANIMAL)} are of one animal: validate on both or on neither")
    quarters = zip(*(stacks[name] for name in sorted(stacks.keys() - val)), strict=True)
    train = [case for of_each in quarters for case in of_each]
    cases = [case for name in sorted(val) for case in stacks[name]]
    return {str(k): {"labelled": train[:k], "unlabelled": train[k:], "val": cases} for k in (2, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", type=Path, help="stacks.json: which cases are of one stack")
    parser.add_argument("file", type=Path, help="to write")
    parser.add_argument("--val", nargs="+", default=VALIDATION, metavar="STACK", help="default: %(default)s")
    options = parser.parse_args()
    stacks = read_json(options.stacks)
    if unknown := sorted(set(options.val) - stacks.keys()):
        parser.error(f"--val: no stack is called {', '.join(unknown)}, there are {', '.join(stacks)}")
    if options.file.exists():
        parser.error(f"{options.file} exists: name another file, or remove it")
    try:
        write_json(options.file, splits_by_animal(stacks, set(options.val)))
    except ValueError as error:
        parser.error(f"--val: {error}")


if __name__ == "__main__":
    main()
