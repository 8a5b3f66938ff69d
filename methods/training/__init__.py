"""Training of the distilled methods: LCM, LCM-LoRA, Guided-Distill, BoostDiff.

``guidance_scale`` g means one thing in every setting here: the g of e_n + g (e_p - e_n). Where a
paper writes w with g = 1 + w, w exists only inside of the network's input.
"""
