"""Networks of other programs, built by dynamic-network-architectures and saved in the layouts of nnssl and nnU-Net."""

import resource
import time
from functools import partial
from multiprocessing import get_context

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from nnunet_topomae.networks import CoPretrainingNetwork, Geometry, HybridSegmentationNetwork
from nnunet_topomae.networks.foreign import as_pretraining
from nnunet_topomae.networks.partners.plan import PlanPartner
from nnunet_topomae.training.checkpoint import read_checkpoint

WIDE, NARROW = (32, 64, 128, 256, 320, 320), (2, 4, 8, 8, 10, 10)
PATCH = (32, 32, 64)
ISOTROPIC = [[1, 1, 1], *[[2, 2, 2]] * 5]
THICK = {"strides": [[1, 1, 1], [1, 2, 2], *[[2, 2, 2]] * 4], "kernels": [[1, 3, 3], [1, 3, 3], *[[3, 3, 3]] * 4]}


def source(network=ResidualEncoderUNet, features=NARROW, channels=1, classes=1, blocks=(1, 3, 4, 6, 6, 6), seed=0):
    """ResEncL as nnssl builds it, with weights as different as after training; `features` shrink it."""
    torch.manual_seed(seed)
    stages = len(features)
    per_stage = {"n_blocks_per_stage" if network is ResidualEncoderUNet else "n_conv_per_stage": blocks[:stages]}
    built = network(
        channels,
        stages,
        features,
        nn.Conv3d,
        3,
        ISOTROPIC[:stages],
        num_classes=classes,
        n_conv_per_stage_decoder=[1] * (stages - 1),
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        **per_stage,
    )
    for name, parameter in built.named_parameters():
        if ".norm." in name:
            nn.init.uniform_(parameter, 0.5, 1)
    return built.eval()


def nnssl(weights, architecture="ResEncL", **more):
    configuration = {"spacing": [1, 1, 1], "patch_size": [160] * 3, "normalization_schemes": ["ZScoreNormalization"]}
    return {
        "network_weights": weights,
        "citations": [],
        "nnssl_adaptation_plan": {
            "architecture_plans": {"arch_class_name": architecture, "arch_kwargs": None},
            "pretrain_plan": {"dataset_name": "Dataset745_OpenMind", "configurations": {"onemmiso": configuration}},
            "pretrain_num_input_channels": 1,
            "recommended_downstream_patchsize": (160, 160, 160),
            "key_to_encoder": "encoder.stages",
            "key_to_stem": "encoder.stem",
        },
    } | more


@pytest.fixture
def network(blueprint, planned_network):
    """Our network of fine-tuning, or of pre-training, around a plan's, as nnUNetPlannerResEncL would plan it."""

    def network(
        stages=6,
        features=NARROW,
        strides=ISOTROPIC,
        kernels=None,
        of="ResidualEncoderUNet",
        phase="fine-tuning",
        channels=1,
    ):
        architecture = planned_network(of, strides[:stages])
        blocks = "n_blocks_per_stage" if of == "ResidualEncoderUNet" else "n_conv_per_stage"
        architecture["arch_kwargs"] |= {
            "features_per_stage": [*features, *features[-1:] * stages][:stages],
            "kernel_sizes": kernels or [[3, 3, 3]] * stages,
            blocks: [1, 3, 4, 6, 6, 6, 6][:stages],
        }
        partner = PlanPartner.of({"patch_size": PATCH, "architecture": architecture}, "tiny")
        parts = Geometry(PATCH, (16, 16, 16)), blueprint.vit, partner
        if phase == "pre-training":
            return CoPretrainingNetwork(channels, *parts)
        return HybridSegmentationNetwork(channels, 3, *parts, fusion="partner_only").eval()

    return network


def load(network, weights, **options):
    return network.load_pretrained(as_pretraining(weights, network.pretrained_names, **options))


def assert_encoders_are_equal(ours, theirs):
    image = torch.randn(1, 1, *PATCH)
    with torch.inference_mode():
        for here, there in zip(ours.encoder(image), theirs.encoder(image), strict=False):
            assert torch.equal(here, there)


@pytest.mark.parametrize("around", ["", "module.", "_orig_mod.", "student.net."])
def test_an_encoder_answers_bit_for_bit_as_where_it_is_from(network, around):
    theirs, ours = source(), network()
    report = load(ours, {around + name: weight for name, weight in theirs.state_dict().items()})
    assert_encoders_are_equal(ours, theirs)
    assert report.encoder_filled == report.encoder_used == 1 and not report.adapted
    decoder = theirs.decoder.stages.state_dict()
    assert all(torch.equal(weight, decoder[name]) for name, weight in ours.decoder.stages.state_dict().items())
    assert {name.split(".")[1] for name in report.new} == {"seg_layers"}


def test_of_a_student_and_its_mean_teacher_one_is_taken(network):
    student, teacher, ours = source(seed=0), source(seed=1), network()
    weights = {f"encoder_ema.{name}": weight for name, weight in teacher.encoder.state_dict().items()}
    load(ours, weights | {f"encoder.{name}": weight for name, weight in student.encoder.state_dict().items()})
    assert_encoders_are_equal(ours, student)


@pytest.mark.parametrize(
    ("stages", "left_over"), [(5, {"encoder.stages.5"}), (4, {"encoder.stages.4", "encoder.stages.5"})]
)
def test_fewer_stages_are_the_first_ones_and_the_decoder_answers_to_them(network, stages, left_over):
    theirs, ours = source(), network(stages=stages)
    report = load(ours, theirs.state_dict())
    assert_encoders_are_equal(ours, theirs)
    assert report.encoder_filled == 1 > report.encoder_used
    parts = {".".join(name.removeprefix("partner.").split(".")[:3]) for name in report.skipped if "encoder" in name}
    assert parts == left_over
    finest = "convs.0.conv.weight"
    assert torch.equal(ours.decoder.stages[-1].get_parameter(finest), theirs.decoder.stages[-1].get_parameter(finest))


def test_a_stage_that_the_weights_lack_stays_new(network):
    report = load(network(), source(features=NARROW[:5]).state_dict())
    assert {".".join(name.split(".")[:3]) for name, why in report.new.items() if why == "not in the checkpoint"} == {
        "encoder.stages.5",
        "decoder.stages.0",
        "decoder.transpconvs.0",
    }
    assert "left new, not in the checkpoint: decoder.stages, decoder.transpconvs, encoder.stages.5" in str(report)


def test_thick_slices_answer_alike_to_an_image_that_is_the_same_in_each(network):
    """Kernels and strides of 1 along the first axis, all of 3 and 2 there; without borders, which no kernel knows."""
    theirs, ours = source(), network(**THICK)
    report = load(ours, theirs.state_dict())
    assert report.encoder_filled >= 0.9
    assert report.adapted["encoder.stem.convs.0.conv.weight"] == "grid (3, 3, 3) to (1, 3, 3)"
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, nn.Conv3d):
            module.padding_mode = "circular"
    image = torch.randn(1, 1, 1, *PATCH[1:]).expand(1, 1, *PATCH)
    with torch.inference_mode():
        for here, there in zip(ours.encoder(image), theirs.encoder(image), strict=True):
            torch.testing.assert_close(here[:, :, 0], there[:, :, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("phase", ["pre-training", "fine-tuning"])
def test_more_channels_are_read_alike(network, phase):
    theirs, ours = source(), network(phase=phase, channels=2)
    report = load(ours, theirs.state_dict())
    encoder = ours.partner.encoder if phase == "pre-training" else ours.encoder
    image = torch.randn(1, 1, *PATCH)
    with torch.inference_mode():
        torch.testing.assert_close(
            encoder(image.expand(-1, 2, -1, -1, -1))[0], theirs.encoder(image)[0], rtol=1e-3, atol=1e-3
        )
    assert "1 input channels to 2" in report.adapted.values()
    if phase == "pre-training":
        assert {name.split(".")[0] for name, why in report.new.items()} == {"vit", "partner"}
        assert not [name for name in report.new if "partner.encoder" in name]


@pytest.mark.parametrize("content", [{"trainer_name": "SparkMAETrainer"}, {"architecture": "NoSkipResEncL"}])
def test_of_another_kind_of_decoder_the_encoder_alone_is_taken(network, tmp_path, content):
    theirs, ours = source(), network()
    torch.save(nnssl(theirs.state_dict(), **content), tmp_path / "weights.pth")
    report = ours.load_pretrained(read_checkpoint(tmp_path / "weights.pth").as_pretraining(ours.pretrained_names))
    assert report.encoder_filled == 1
    assert not [name for name in report.loaded if name.startswith("decoder")]


def test_weights_that_fill_less_than_half_are_an_error_by_layer(network):
    ours = network(features=[3 * width for width in NARROW])
    before = ours.state_dict()["encoder.stem.convs.0.conv.weight"].clone()
    message = (
        r"encoder 0% would be filled(.|\n)*blocks.0.conv1.conv.weight: \(2, 2, 3, 3, 3\) in the checkpoint, \(6, 6"
    )
    with pytest.raises(ValueError, match=message):
        load(ours, source().state_dict())
    assert torch.equal(ours.state_dict()["encoder.stem.convs.0.conv.weight"], before)


def names(*names):
    return dict.fromkeys(names, torch.ones(1))


@pytest.mark.parametrize(
    ("of", "weights", "says"),
    [
        (
            "PlainConvUNet",
            source,
            "a residual U-Net. Plan with .* -pl nnUNetPlannerResEncL.* -p nnUNetResEncUNetLPlans",
        ),
        ("ResidualEncoderUNet", partial(source, PlainConvUNet), "a plain U-Net. Plan with .* -pl ExperimentPlanner"),
        ("PlainConvUNet", names("encoder.downsamplings.0.0.weight"), "a UNETR.*Set NNUNET_TOPOMAE_PARTNER=unetrpp"),
        (
            "PlainConvUNet",
            names("token_embedding.weight", "norm.weight"),
            "a ViT alone. Name the partner's safetensors",
        ),
        (
            "PlainConvUNet",
            names("eva.pos_embed", "down_projection.proj.weight"),
            "a Primus. .*take weights of a ResEncL",
        ),
        ("PlainConvUNet", names("swinViT.layers1.0.blocks.0.norm1.weight"), "a SwinUNETR. .*take weights of a ResEncL"),
        ("PlainConvUNet", names("a.b", "c"), "none of ours, with weights named a.b, c. Take a checkpoint of nnU-Net"),
        (
            "PlainConvUNet",
            {"encoder.stages.0.0.convs.0.conv.weight": torch.ones(4, 1, 3, 3)},
            "for 2D images. Take weights of a 3D configuration",
        ),
    ],
)
def test_another_network_is_an_error_that_names_the_plans_that_would_do(network, of, weights, says):
    weights = weights().state_dict() if callable(weights) else weights
    with pytest.raises(ValueError, match=says):
        load(network(of=of), weights)


def fill(file, network, answer):
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    report = network.load_pretrained(read_checkpoint(file).as_pretraining(network.pretrained_names))
    seconds = time.process_time() - start
    answer.send((report.encoder_used, seconds, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)))


@pytest.mark.slow
def test_resencl_of_full_width_is_taken_whole_soon_and_in_little_memory(network, tmp_path):
    theirs, ours = source(features=WIDE), network(features=WIDE)
    file = tmp_path / "weights.pth"
    torch.save(nnssl(theirs.state_dict()), file)
    there, here = get_context("fork").Pipe()
    process = get_context("fork").Process(target=fill, args=(file, ours, here))
    process.start()
    used, seconds, memory = there.recv()
    process.join()
    assert used == 1 and seconds < 10 and memory < 2.5 * file.stat().st_size

    load(ours, theirs.state_dict())
    assert_encoders_are_equal(ours, theirs)
