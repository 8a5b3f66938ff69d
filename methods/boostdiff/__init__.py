"""BoostDiff: one guidance scale distilled into a LoRA or into the biases."""
