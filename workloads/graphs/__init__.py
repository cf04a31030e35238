"""Call graphs: who calls whom to do one piece of work. Read from records, learnt as a model, generated from it.

After the service dependency graph generator of Du et al., "A Microservice Graph Generator with Production
Characteristics" (arXiv 2412.19083, the DGG below).
"""
