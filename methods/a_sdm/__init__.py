"""A-SDM: U-Nets assembled from pruned and unpruned stages."""
