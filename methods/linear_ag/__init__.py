"""LinearAG: unconditional predictions by a linear rule of earlier ones."""
