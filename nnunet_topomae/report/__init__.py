"""One self-contained page about trainings: `nnunet-topomae report`. See docs/evaluation.md."""
