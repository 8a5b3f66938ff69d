"""The papers' tables and figures: their numbers beside ours, and what checking them found."""
