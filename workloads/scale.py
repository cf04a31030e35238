"""Scale: the chatbot with 1,000 adapters or more (the paper's scalability study, HPCA version, VIII-I, Fig. 18).

The study's distributions over 1,000 and 2,000 adapters are ``--popularity uniform`` (its Random), ``distinct``
(Distinct) and ``gaussian:0.1``, ``gaussian:0.3`` (our reading of Skewed-x). It draws an adapter per query; here one is
drawn per session, and turns of a session keep it.
"""

from dataclasses import replace

from workloads.chatbot import CHATBOT
from workloads.demand import SCALE_ADAPTERS

SCALE = replace(
    CHATBOT,
    name="scale",
    description="chatbot with 1,000 adapters, all equally popular",
    num_adapters=SCALE_ADAPTERS,
    popularity="uniform",
)
