"""BK-SDM and A-SDM: U-Nets with fewer layers, and U-Nets assembled of full and pruned stages."""
