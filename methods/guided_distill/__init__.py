"""Guided-Distill: guidance, then steps, distilled into a student per number of steps."""
