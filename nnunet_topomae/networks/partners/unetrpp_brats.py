"""UNETR++ with the blocks that its authors published for BraTS."""

from nnunet_topomae.networks.partners.unetrpp import UNETRPPPartner


class UNETRPPForBraTS(UNETRPPPartner):
    """The two branches of each attention are added as they are."""

    variant = {"branch_fusion": "sum"}


PARTNER = UNETRPPForBraTS
