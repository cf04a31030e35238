"""The service time that open-loop workloads assume, since their arrivals cannot wait for the real one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServiceTime:
    """Seconds from a request's arrival to its last token: a reader's pace of about 33 tokens a second."""

    first_token_s: float = 0.5
    per_token_s: float = 0.03

    def of(self, output_tokens: float) -> float:
        """Seconds for an answer of ``output_tokens``."""
        return self.first_token_s + self.per_token_s * output_tokens
