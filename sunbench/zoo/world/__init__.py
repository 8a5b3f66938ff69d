"""The world that the zoo's models draw: what a caption can say, and what it leaves open.

``captions`` (scenes and their words), ``sprites`` (the art), ``images`` (scenes composed).
"""
