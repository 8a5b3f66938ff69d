"""PCM-LoRA's training: consistency within phases of the trajectory."""
