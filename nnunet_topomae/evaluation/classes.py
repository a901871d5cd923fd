"""What a segmentation is measured for: labels and regions by name, and what to ignore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_topomae.evaluation.segmentation import Label, as_label


@dataclass(frozen=True)
class Classes:
    """Labels to measure.

    Attributes:
        names: by label, or tuple of labels for a region.
        ignore_label: voxels with it in the reference count for nothing.
        values: all that may stand in a label map; None if that is not known.
    """

    names: dict[Label, str]
    ignore_label: int | None = None
    values: frozenset[int] | None = None

    @classmethod
    def of_dataset(cls, description: Mapping[str, Any], plans: Mapping[str, Any] | None = None) -> Classes:
        """What nnUNetv2_evaluate_folder scores with this content of dataset.json (and of a plans file).

        Raises:
            ValueError: nnU-Net cannot read these labels.
        """
        try:
            labels = description["labels"]
            if plans is None:
                manager = LabelManager(labels, description.get("regions_class_order"))
            else:
                manager = PlansManager(dict(plans)).get_label_manager(dict(description))
            scored = manager.foreground_regions if manager.has_regions else manager.foreground_labels
            scored = [as_label(label) for label in scored]
            name_of = {as_label(value): name for name, value in labels.items()}
            values = {*map(int, manager.all_labels), 0}
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"nnU-Net cannot read the labels of dataset.json: {error!r}") from error
        if manager.has_ignore_label:
            values.add(manager.ignore_label)
        # A region of one label is that label; nnU-Net scores it by its number.
        names = {label: name_of.get(label, name_of.get((label,), str(label))) for label in scored}
        return cls(names, manager.ignore_label, frozenset(values))

    @property
    def measured(self) -> set[int]:
        """Values that count for some class, or are the one to ignore."""
        return {value for label in self.names for value in _values(label)} | {self.ignore_label or 0}

    def choose(self, wanted: Sequence[str]) -> Classes:
        """Those named by the user: names of dataset.json, numbers, or numbers with commas for a region.

        Raises:
            ValueError: one that is none of these, or that dataset.json does not list.
        """
        by_name = {name: label for label, name in self.names.items()}
        chosen = {}
        for text in wanted:
            label = by_name[text] if text in by_name else _parse_label(text, by_name)
            if self.values is not None and not self.values.issuperset(_values(label)):
                listed = ", ".join(map(str, sorted(self.values)))
                raise ValueError(f"label {text}: dataset.json lists the values {listed} alone")
            if self.ignore_label in _values(label):
                raise ValueError(f"label {text} is the label to ignore: it is not measured")
            chosen[label] = self.names.get(label, text)
        return Classes(chosen, self.ignore_label, self.values)

    def foreground(self, wanted: Sequence[str]) -> list[Label]:
        """What `choose` takes the names for, or all classes without one. Raises ValueError for the background, too."""
        for label, name in (chosen := self.choose(wanted).names).items():
            if 0 in _values(label):
                raise ValueError(f"label {name} holds the background (0), of which no component is removed")
        return list(chosen) or [label for label in self.names if 0 not in _values(label)]


def _values(label: Label) -> tuple[int, ...]:
    return label if isinstance(label, tuple) else (label,)


def _parse_label(text: str, by_name: Mapping[str, Label]) -> Label:
    try:
        values = [int(part) for part in text.strip("()").split(",") if part.strip()]
    except ValueError:
        values = []
    if not values or min(values) < 0:
        known = f", nor one of the names {', '.join(by_name)}" if by_name else ""
        raise ValueError(f"{text!r} is no label: neither a number nor numbers with commas between them{known}")
    return values[0] if len(values) == 1 else tuple(values)
