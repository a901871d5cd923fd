"""nnU-Net trainers. They only hang the method on nnU-Net's hooks; the method itself lives in the other folders."""
