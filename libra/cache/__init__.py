"""The cache: pool, dependency tree, cost model, swapper, manager, and the contract of a policy."""
