"""UNETR++ with the blocks that its authors published for ACDC and for MSD's lung."""

from nnunet_topomae.networks.partners.unetrpp import UNETRPPPartner


class UNETRPPForACDC(UNETRPPPartner):
    """Two convolution blocks after each attention, and a projection of its own for values."""

    variant = {"n_conv_blocks": 2, "shared_projection": False}


PARTNER = UNETRPPForACDC
