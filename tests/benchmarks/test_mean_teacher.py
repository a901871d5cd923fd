"""The student learns from its teacher's answers, and the teacher is what is kept."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "trainers"))
from MeanTeacherFinetuner import MeanTeacherFinetuner, consistency  # noqa: E402


def logits_of(*probabilities: float) -> torch.Tensor:
    """[1, 2, 1, 1, n] of two classes, by the probability of the second."""
    second = torch.tensor(probabilities).view(1, 1, 1, 1, -1)
    return torch.cat([1 - second, second], dim=1).log()


def test_the_student_is_asked_only_where_the_teacher_is_sure():
    teacher = logits_of(0.95, 0.6, 0.02).exp()
    value = consistency(logits_of(0.5, 0.5, 0.5), teacher)
    assert value.item() == pytest.approx(0.6931 + 1 - 2 * (0.5 * 0.97) / (1 + 0.97), rel=1e-3)
    assert consistency(logits_of(0.5, 0.9, 0.5), teacher) == value > consistency(logits_of(0.9, 0.5, 0.1), teacher)


def test_training_ends_with_the_teacher(workshop):
    cases = sorted(file.name.removesuffix(".pkl") for file in workshop.images.glob("*.pkl"))
    split = {"train": cases[:2], "unlabelled": cases[2:4], "val": cases[4:]}
    (workshop.dataset / "splits_final.json").write_text(json.dumps([split]))
    trainer = workshop.build(MeanTeacherFinetuner, finetune_epochs=2, iterations_per_epoch=2, partner="plan")
    drawn, students, train_step = set(), [], trainer.train_step

    def step(batch):
        output = train_step(batch)
        drawn.update(trainer.unlabelled._data.identifiers)
        students.append([weight.detach().clone() for weight in trainer.network.parameters()])
        return output

    trainer.train_step = step
    trainer.run_training()
    file = Path(trainer.output_folder, "checkpoint_final.pth")
    kept = torch.load(file, weights_only=False)["network_weights"]
    assert drawn == set(split["unlabelled"]) and trainer.loss.weight > 0
    assert all(torch.equal(weight, kept[name]) for name, weight in trainer.teacher.state_dict().items())
    assert not all(map(torch.equal, students[-1], trainer.network.parameters()))
