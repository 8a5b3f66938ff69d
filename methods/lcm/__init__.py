"""LCM and LCM-LoRA: latent consistency models, as a student U-Net and as a LoRA."""
