"""DMD2: a few-step student whose images match the base's distribution."""
