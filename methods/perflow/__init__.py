"""PeRFlow: straight flows in pieces, as a change of all weights of a base."""
