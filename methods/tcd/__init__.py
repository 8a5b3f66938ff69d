"""TCD-LoRA's training: consistency to any point of the trajectory."""
