"""Studies over cells of the runner: negative-prompt adherence, and the quality of the zoo."""
