"""The networks that learn beside the ViT, a file each. `config.PARTNERS` lists them by the names of their files."""

from importlib import import_module

from nnunet_topomae.networks.partners.partner import LearningRates, Partner, PartnerNetwork

__all__ = ["LearningRates", "Partner", "PartnerNetwork", "partner_class"]


def partner_class(name: str) -> type[Partner]:
    """The partner in `networks/partners/<name>.py`."""
    partner: type[Partner] = import_module(f"{__name__}.{name}").PARTNER
    return partner
