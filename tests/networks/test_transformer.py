from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import Block as TimmBlock

from nnunet_topomae.networks.transformer import Attention, Block


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("drop_path", [0.0, 0.4])
def test_it_is_timms(training: bool, drop_path: float) -> None:
    torch.manual_seed(0)
    theirs = TimmBlock(24, 3, qkv_bias=True, drop_path=drop_path).train(training)
    ours = Block(24, 3, drop_path).train(training)
    ours.load_state_dict(theirs.state_dict())
    tokens = torch.randn(7, 5, 24)
    outputs = []
    for block in (theirs, ours):
        torch.manual_seed(1)  # of dropped paths
        outputs.append(block(tokens))
    torch.testing.assert_close(outputs[1], outputs[0])
    for output in outputs:
        output.square().sum().backward()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs.get_parameter(name).grad)


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="24 channels do not divide into 5 heads"):
        Attention(24, 5)
