"""The paper's evaluation, figure by figure, and the controls it lacks; `libra reproduce` runs it."""
