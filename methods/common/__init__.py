"""What trained methods share: weights and where they are, students, LoRAs, losses, training.

``guidance_scale`` g means one thing everywhere: the g of e_n + g (e_p - e_n). Where a paper writes
w with g = 1 + w, w exists only inside of the network's input.
"""
