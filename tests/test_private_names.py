"""Each name is where the installed release has it; one that has moved is an error that names the versions."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from nnunetv2.experiment_planning.experiment_planners import network_topology
from nnunetv2.run import run_training
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module
from packaging.requirements import Requirement
from packaging.version import Version
from torch import nn

from nnunet_topomae import private_names
from nnunet_topomae.private_names import MovedNameError


def test_the_installed_versions_are_tested_ones():
    assert private_names.untested_versions() is None


def test_pyproject_allows_the_tested_versions_and_no_older_one():
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    for package, (oldest, newest) in private_names.TESTED.items():
        allowed = Requirement(re.search(f'^ *"({package}[^"]*)"', project, re.MULTILINE)[1]).specifier
        assert oldest in allowed and newest in allowed
        assert "0.3.3" not in allowed and f"{Version(newest).major + 1}.0" not in allowed


def test_a_newer_release_is_named_and_an_older_one_refused(monkeypatch):
    installed = {"nnunetv2": "2.9.3", "batchgeneratorsv2": "0.3.6"}
    monkeypatch.setattr(private_names, "version", installed.__getitem__)
    message = "nnunetv2 2.9.3: not tested with this package; tested: nnunetv2"
    assert private_names.untested_versions().startswith(message)
    installed |= {"nnunetv2": "2.8.1", "batchgeneratorsv2": "0.3.3"}
    with pytest.raises(RuntimeError, match="batchgeneratorsv2 0.3.3 is too old.*install 'batchgeneratorsv2>=0.3.4'"):
        private_names.untested_versions()


@pytest.mark.parametrize("rotates", [True, False])
def test_drawn_motion(rotates):
    transform = SpatialTransform(
        (4, 4, 4), 0, False, p_rotation=float(rotates), rotation=(0.3, 0.4), p_scaling=0, bg_style_seg_sampling=False
    )
    params = transform.get_parameters(image=torch.zeros(1, 8, 8, 8))
    affine, centre = private_names.drawn_motion(params)
    assert len(centre) == 3
    if rotates:
        np.testing.assert_allclose(affine @ affine.T, np.eye(3), atol=1e-6)
    else:
        assert affine is None
    with pytest.raises(MovedNameError, match="parameter 'grid' of batchgeneratorsv2's SpatialTransform.*nine points"):
        private_names.drawn_motion({"matrix": affine})


def test_gaussian_weights(monkeypatch):
    weights = private_names.gaussian_weights(0.8, 6)
    expected = np.exp(-0.5 * (np.arange(-2, 3) / 0.8) ** 2)
    assert weights == pytest.approx(expected / expected.sum(), abs=1e-6)
    monkeypatch.delattr("batchgeneratorsv2.transforms.noise.gaussian_blur._build_kernel")
    with pytest.raises(MovedNameError, match="_build_kernel"):
        private_names.gaussian_weights(0.8, 6)


def test_curves(tmp_path):
    curves = private_names.curves(MetaLogger(str(tmp_path), False))
    assert {"train_losses", "val_losses", "lrs"} <= curves.keys()
    with pytest.raises(MovedNameError, match="my_fantastic_logging.*Installed: nnunetv2 .*tested: nnunetv2"):
        private_names.curves(SimpleNamespace(local_logger=None))


def test_init_args():
    assert "self.my_init_kwargs" in inspect.getsource(trainer_module.nnUNetTrainer.save_checkpoint)
    assert private_names.init_args(SimpleNamespace(my_init_kwargs={"fold": 0})) == {"fold": 0}
    with pytest.raises(MovedNameError, match="my_init_kwargs"):
        private_names.init_args(SimpleNamespace())


def test_wrap_networks_in(monkeypatch):
    monkeypatch.setattr(trainer_module, "DDP", trainer_module.DDP)  # put back afterwards
    assert "DDP(self.network" in inspect.getsource(trainer_module.nnUNetTrainer.initialize)
    private_names.wrap_networks_in(nn.Identity)
    assert trainer_module.DDP is nn.Identity
    monkeypatch.delattr(trainer_module, "DDP")
    with pytest.raises(MovedNameError, match="DDP in nnunetv2.training.nnUNetTrainer.nnUNetTrainer"):
        private_names.wrap_networks_in(nn.Identity)


def test_set_deep_supervision_weights():
    wrapper = DeepSupervisionWrapper(nn.L1Loss(), (0.5, 0.5))
    private_names.set_deep_supervision_weights(wrapper, (1.0, 0.25))
    target, outputs = torch.zeros(1), [torch.tensor([2.0]), torch.tensor([4.0])]
    assert wrapper(outputs, [target, target]).item() == 1.0 * 2 + 0.25 * 4
    with pytest.raises(MovedNameError, match="weight_factors"):
        private_names.set_deep_supervision_weights(nn.L1Loss(), (1.0,))


def test_named_weights():
    command = "nnUNetv2_train 4 3d_fullres 0 -p nnUNetPlans -pretrained_weights there.pth --npz"
    assert private_names.named_weights(command.split()) == "there.pth"
    assert private_names.named_weights("nnUNetv2_train 4 3d_fullres 0 -p mine".split()) is None
    assert "'-pretrained_weights'" in inspect.getsource(run_training.run_training_entry)


def test_load_named_weights_by(monkeypatch):
    calls, theirs = [], lambda network, file, verbose: calls.append(file)
    monkeypatch.setattr(run_training, "load_pretrained_weights", theirs)
    private_names.load_named_weights_by(lambda: calls.append("ours"))
    trainer = SimpleNamespace(was_initialized=True, network=None)
    for _ in range(2):
        run_training.maybe_load_checkpoint(trainer, False, False, "theirs")
    assert calls == ["ours", "theirs"]  # once: the next training may be of another trainer
    monkeypatch.delattr(run_training, "load_pretrained_weights")
    with pytest.raises(MovedNameError, match="load_pretrained_weights.*the option -pretrained_weights"):
        private_names.load_named_weights_by(lambda: None)


def test_pool_and_conv_props(monkeypatch):
    strides, padded, divisors = private_names.pool_and_conv_props((1.0, 1.0, 1.0), (33, 32, 32), 4, 999)
    assert strides[0] == (1, 1, 1) and tuple(padded) == (40, 32, 32) and tuple(divisors) == (8, 8, 8)
    monkeypatch.setattr(network_topology, "get_pool_and_conv_props", lambda *arguments: (1, 2))
    with pytest.raises(MovedNameError, match="get_pool_and_conv_props.*plans for another patch"):
        private_names.pool_and_conv_props((1.0, 1.0, 1.0), (32, 32, 32), 4, 999)
