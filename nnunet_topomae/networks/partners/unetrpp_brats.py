"""UNETR++ with the blocks that its authors published for BraTS."""

from types import MappingProxyType

from nnunet_topomae.networks.partners.unetrpp import UNETRPPPartner


class UNETRPPForBraTS(UNETRPPPartner):
    """The two branches of each attention are added as they are."""

    variant = MappingProxyType({"branch_fusion": "sum"})


PARTNER = UNETRPPForBraTS
